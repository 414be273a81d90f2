"""Laws of frequencies: how often each latent is to be active, few of them often and many rarely."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from saetools.data.checks import check_count, check_number, check_tensor


class Law(NamedTuple):
    """A power law of frequencies by rank, rho_j proportional to (rank + shift)^-exponent."""

    exponent: float
    shift: float  # in ranks, of which the first is 1


def frequency_law(
    latents: int,
    mean: float,
    exponent: float = 1.0,
    shift: float = 30.0,
    *,
    floor: float | None = None,
    ceiling: float = 0.5,
    seed: int | None = None,
) -> Tensor:
    """Frequencies (L,) in proportion to (rank + shift)^-exponent, whose mean is `mean`.

    For `FrequencyThreshold`, whose rho it can be. With exponent 1 it is Zipf's law, shifted by
    Mandelbrot; Ayonrinde 2024, arXiv 2411.02124, asks latents for such frequencies.

    Args:
        latents: L, at least 1.
        mean: in (0, 1); to have L0 active latents per row it is L0 / L.
        exponent, shift: >= 0; which suit the data `fit_law` finds. Exponent 0 is uniform.
        floor: no frequency is lower; by default mean / 20.
        ceiling: no frequency is higher.
        seed: of a random order; None has the most frequent first.

    Example:
        >>> rho = frequency_law(1536, 24 / 1536)
        >>> round(rho.sum().item(), 3), round(rho.max().item(), 3), round(rho.min().item(), 4)
        (24.0, 0.197, 0.0039)
    """
    ranks = torch.arange(1, check_count("latents", latents) + 1, dtype=torch.float64)
    check_number("mean", mean, above=0, below=1)
    check_number("exponent", exponent, minimum=0)
    check_number("shift", shift, minimum=0)
    low = mean / 20 if floor is None else check_number("floor", floor, above=0)
    high = check_number("ceiling", ceiling, above=0, below=1)
    if not low <= mean <= high:
        raise ValueError(f"mean must lie between floor and ceiling, {low:g} and {high:g}: {mean}")
    wanted = (ranks + shift).pow(-exponent)
    rho = bounded_mean(wanted, *(wanted.new_tensor([each]) for each in (mean, low, high)))
    if seed is not None:
        generator = torch.Generator().manual_seed(check_count("seed", seed, minimum=0))
        rho = rho[torch.randperm(len(rho), generator=generator, device="cpu")]
    return rho.float()


def fit_law(frequencies: Tensor) -> Law:
    """The exponent and the shift of the power law nearest to measured frequencies (L,).

    Read them off a first training's latents, and prescribe `frequency_law(L, mean, *law)`. It is
    the least absolute difference of logarithms over ranks that are evenly spaced in logarithm, so
    that a few latents that are far off, or at the ends of a band, count for little. Dead latents
    are left out. At least 8 must be active, on different shares of rows.

    Example:
        >>> law = fit_law(frequency_law(1000, 0.01, exponent=0.8, shift=5.0, floor=1e-6))
        >>> round(law.exponent, 2), round(law.shift, 1)
        (0.8, 5.0)
    """
    found = check_tensor("frequencies", frequencies, dims=1).detach().flatten().double()
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError("frequencies must lie in [0, 1], got others")
    found = found[found > 0].sort(descending=True).values
    if len(found) < 8 or found[0] == found[-1]:
        raise ValueError(f"frequencies must hold 8 or more that differ and are not 0: {len(found)}")
    ranks = torch.logspace(0, math.log10(len(found)), 200, dtype=torch.float64).round().unique()
    ranks = ranks.to(found.device)
    y = found[ranks.long() - 1].log()
    shifts = torch.cat(
        [ranks.new_zeros(1), torch.logspace(-1, math.log10(len(found)), 600).to(ranks)]
    )
    x = (ranks + shifts[:, None]).log()  # (shifts, ranks)
    weight = torch.ones_like(x)
    for _ in range(50):  # iterated least squares reach the least absolute difference
        total = weight.sum(-1, keepdim=True)
        dx = x - (weight * x).sum(-1, keepdim=True) / total
        dy = y - (weight * y).sum(-1, keepdim=True) / total
        slope = (weight * dx * dy).sum(-1) / (weight * dx.square()).sum(-1)
        miss = (dy - slope[:, None] * dx).abs()
        weight = 1 / miss.clamp(min=1e-4)
    best = int(miss.sum(-1).argmin())
    return Law(max(0.0, -slope[best].item()), shifts[best].item())


def bounded_mean(values: Tensor, mean: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The values (..., L), times one factor and clamped to [low, high], with this mean (..., 1).

    The factor is found by bisection; low <= mean <= high.
    """
    exact = values.double().clamp(min=1e-300)
    mean, low, high = mean.double(), low.double(), high.double()
    # Between all at the floor and all at the ceiling.
    least, most = (low / exact.amax(-1, keepdim=True)).log(), (high / exact.amin(-1, True)).log()
    for _ in range(100):
        middle = (least + most) / 2
        short = (exact * middle.exp()).clamp(low, high).mean(-1, keepdim=True) < mean
        least, most = torch.where(short, middle, least), torch.where(short, most, middle)
    return (exact * most.exp()).clamp(low, high)
