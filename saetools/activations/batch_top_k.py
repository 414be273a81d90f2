"""The largest latents of a whole batch, k per row on average; afterwards those over a threshold."""

import torch
from torch import Tensor

from saetools.activations.state import PerLatent, recomputing
from saetools.data.checks import check_number

_RATE = 0.01  # of the running threshold, per batch


class BatchTopK(PerLatent):
    """While training, passes the k B largest of a batch's B L pre-activations that are above 0.

    In evaluation mode it passes what exceeds `threshold`, a buffer: the running mean of the
    smallest latent that was kept of each batch, or what was put there. Each process keeps the
    largest of its own part of a batch.

    Source: Bussmann et al. 2024, arXiv 2412.06410.

    Args:
        k: > 0, how many of a row's latents are kept on average.

    Example:
        >>> batch_top_k, z = BatchTopK(2), torch.randn(100, 8)
        >>> int((batch_top_k(z) > 0).sum()), bool(batch_top_k.threshold > 0)
        (200, True)
    """

    threshold: Tensor

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = check_number("k", k, above=0)
        self.register_buffer("threshold", torch.full((1,), torch.nan))  # (N, 1) in an ensemble

    def forward(self, pre_activations: Tensor) -> Tensor:
        """Latents (..., L)."""
        z = pre_activations
        if not self.training:
            if not torch.compiler.is_compiling() and self.threshold.isnan().any():
                raise RuntimeError("BatchTopK must have seen a batch: train it, or set threshold")
            return z.masked_fill((z <= self._against(self.threshold, z)) | (z <= 0), 0)
        if self.k > z.shape[-1]:
            latents = f"at least k = {self.k:g} latents, got shape {tuple(z.shape)}"
            raise ValueError(f"pre_activations must have {latents}")
        members = self.threshold.ndim - 1
        flat = z.detach().flatten(members)  # (B L,), or (N, B L)
        most = min(max(1, round(self.k * flat.shape[-1] / z.shape[-1])), flat.shape[-1])
        kept = flat.topk(most, dim=-1, sorted=False).values
        least = kept.masked_fill(kept <= 0, torch.inf).amin(-1, keepdim=True)  # (1,), or (N, 1)
        if not recomputing():
            self._follow(least)
        return z.masked_fill(z < self._against(least, z), 0)

    def _against(self, threshold: Tensor, z: Tensor) -> Tensor:
        return threshold if threshold.ndim == 1 else threshold.view(-1, *[1] * (z.ndim - 1))

    @torch.no_grad()
    def _follow(self, least: Tensor) -> None:
        least = least.to(self.threshold)
        followed = torch.where(self.threshold.isnan(), least, self.threshold.lerp(least, _RATE))
        self.threshold.copy_(torch.where(least.isinf(), self.threshold, followed))
