"""What a method of large_codes.py is, and what it is made for."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from _codes import Autoencoders, Rows, some_rows
from torch import Tensor, nn

from saetools import frequency_law
from saetools.activations.quantile import upper_quantile

_SAMPLE = 8192  # rows on which a start is made


class Batch(NamedTuple):
    """A step's tensors, what a method may add to the loss by."""

    z: Tensor  # (N, B, L)
    latents: Tensor
    x: Tensor  # (N, B, D)
    x_hat: Tensor
    spread: Tensor  # (N, 1, 1), of z over all latents at the start


Added = Callable[[Batch], Tensor]  # a loss (N,)


class Method(NamedTuple):
    """One way to be sparse, for N autoencoders at once."""

    activation: nn.Module
    added: Added | None = None
    # At this share of the steps something else begins.
    turn: tuple[float, Callable[[Tensor], object]] | None = None
    # Afterwards: thresholds (N, L) that stand for it, or None where a row decides.
    thresholds: Callable[[Tensor], Tensor | None] = lambda _: None
    excess: bool = False  # what passes is z - theta, not z
    normed: bool = False  # directions of norm 1 are the encoder's, which has no bias
    rho: Callable[[], Tensor] | None = None  # asked of each latent, (N, L)
    pace: float = 1.0  # of the activation's own parameters, in learning rates


class Setting(NamedTuple):
    """What methods are made for: models at their start, L0, and pre-activations of some rows."""

    models: Autoencoders
    l0: int
    z: Tensor  # (N, _SAMPLE, L)

    @property
    def mean(self) -> float:
        """The mean frequency that L0 asks for."""
        return self.l0 / self.z.shape[-1]

    @property
    def common(self) -> Tensor:
        """The threshold (N, 1) above which L0 latents a row are, the same for all latents."""
        flat = self.z[:, ::8].flatten(1)
        return upper_quantile(flat.unsqueeze(-1), flat.new_full((len(flat), 1), self.mean))

    def law(self, exponent: float, shift: float) -> Tensor:
        """Frequencies (N, L) by a power law, each member's in an order of its own."""
        members, rows, latents = self.z.shape
        floor = max(self.mean / 20, 2 / rows)
        laws = [
            frequency_law(latents, self.mean, exponent, shift, floor=floor, seed=seed)
            for seed in range(members)
        ]
        return torch.stack(laws).to(self.z.device)


def setting(models: Autoencoders, rows: Rows, l0: int) -> Setting:
    """On rows of the training part."""
    count = min(_SAMPLE, (1 << 28) // models.bias.numel())
    with torch.no_grad():
        return Setting(models, l0, models.encode(some_rows(rows["train"], count)))
