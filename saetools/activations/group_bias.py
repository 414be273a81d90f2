"""Biases that move towards a target frequency, by groups of latents."""

import torch
from torch import Tensor

from saetools.activations.state import PerLatent, against, recomputing, rho_per_latent, rows_of
from saetools.data.checks import check_count, check_number
from saetools.frequency import in_single

_NEVER = 1e-6  # a latent that is active more rarely is raised


class GroupBiasAdaptation(PerLatent):
    """relu(z + bias), each bias moved after every so many batches towards its group's frequency.

    Latents with the same rho are a group. Over the batches since the last move a latent was active
    on a share f of the rows, and its largest value was r, at least 0. Where f > rho its bias falls
    by rate * r, to -1 at the least; where it was never active its bias rises, by rate times the
    mean r of those of its group whose r is above 0, to 0 at the most. Between the two it is left
    alone. The layer in front should have no bias, rows of unit norm, and inputs of like norm, for
    which the limits of -1 and 0 are meant.

    Source: Chen et al. 2025, Taming Polysemanticity in LLMs, arXiv 2506.14002. There the groups'
    frequencies fall exponentially, `torch.logspace(-1, -3, groups).repeat_interleave(size)`.

    Args:
        latents: L.
        rho: a tensor (L,), each latent's target; a number is one group.
        rate: > 0, of a move in either direction.
        every: batches between two moves.

    Example:
        >>> activation, z = GroupBiasAdaptation(3, rho=0.1, every=1), torch.randn(1000, 3)
        >>> for _ in range(100):
        ...     latents = activation(z)
        >>> activation.bias.lt(0).all().item(), latents.gt(0).float().mean().item() < 0.25
        (True, True)
    """

    bias: Tensor
    rho: Tensor
    group: Tensor
    since: Tensor

    def __init__(
        self, latents: int, rho: float | Tensor, *, rate: float = 0.01, every: int = 20
    ) -> None:
        super().__init__()
        target = rho_per_latent(latents, rho)
        self.rate = check_number("rate", rate, above=0)
        self.every = check_count("every", every)
        self.register_buffer("rho", target)
        self.register_buffer("group", target.unique(return_inverse=True)[1])
        self.register_buffer("bias", torch.zeros_like(target))
        # The last move: each latent's active rows and largest value, and the rows and batches.
        since = target.new_zeros(*target.shape[:-1], 4, target.shape[-1])
        self.register_buffer("since", since)

    def forward(self, pre_activations: Tensor) -> Tensor:
        """Latents (..., L)."""
        z = pre_activations
        if self.training and z.numel() > 0 and not recomputing():
            self._see(z.detach())
        return (z + against(self.bias, z)).relu().to(z.dtype)

    @torch.no_grad()
    def _see(self, z: Tensor) -> None:
        rows = in_single(rows_of(z, self.rho)) + self.bias.unsqueeze(-2)
        active, largest, count, batches = self.since.unbind(-2)
        largest = torch.maximum(largest, rows.amax(-2))
        active = active + rows.gt_(0).sum(-2)
        count, batches = count + rows.shape[-2], batches + 1
        due = batches >= self.every
        self.bias.copy_(torch.where(due, self._moved(active / count, largest), self.bias))
        since = torch.stack([active, largest, count, batches], dim=-2)
        self.since.copy_(since.masked_fill(due.unsqueeze(-2), 0))

    def _moved(self, share: Tensor, largest: Tensor) -> Tensor:
        none = torch.zeros_like(largest)
        total = none.scatter_add(-1, self.group, largest)
        alive = none.scatter_add(-1, self.group, (largest > 0).to(largest))
        mean = (total / alive.clamp(min=1)).gather(-1, self.group)
        lower = (self.bias - self.rate * largest).clamp(min=-1)
        higher = (self.bias + self.rate * mean).clamp(max=0)
        moved = torch.where(share > self.rho, lower, self.bias)
        return torch.where(share < _NEVER, higher, moved)
