"""One threshold for all latents, and an offset for each that fires too rarely or too often."""

import math

import torch
from torch import Tensor

from saetools.data.checks import check_number

_LEAK = 0.01  # of an offset, per batch, while its latent is in the band
_MOST_LEAK = 0.2  # of the step out of the band, or a latent far from the others would swing
_MOST = 0.5  # no latent is left alone above this frequency

Band = tuple[float, float]


def check_band(band: object) -> Band:
    """The divisor of the mean below and the factor above it, each at least 1; one is the first."""
    if not isinstance(band, tuple):
        return check_number("band", band, minimum=1), math.inf
    if len(band) != 2:
        raise ValueError(f"band must be a number or two of them, below and above, got {band}")
    below, above = (check_number("band", each, minimum=1) for each in band)
    return below, above


def limits(rho: Tensor, band: Band) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of rho (..., L), and the ends of the band, each (..., 1)."""
    mean = rho.mean(-1, keepdim=True)
    return mean, mean / band[0], torch.maximum((mean * band[1]).clamp(max=_MOST), mean)


def band_moves(
    share: Tensor, frequency: Tensor, offset: Tensor, step: Tensor, rho: Tensor, band: Band
) -> tuple[Tensor, Tensor]:
    """How far thresholds go, (..., L), and the offsets that they have then.

    For a batch's `share` of active rows, the running `frequency`, and a `step`, rate times spread.
    """
    mean, low, high = limits(rho, band)
    seen = frequency.clamp(min=torch.finfo(frequency.dtype).tiny)
    out = (seen / high).log().clamp(0, 1) - (low / seen).log().clamp(0, 1)
    leak = torch.minimum(_LEAK * offset.abs(), _MOST_LEAK * step) * offset.sign()
    new = offset + torch.where(out == 0, -leak, step * out)
    miss = (share.mean(-1, keepdim=True) / mean - 1).clamp(-1, 1)
    return step.mean(-1, keepdim=True) * miss + new - offset, new
