"""Whether units fire with known factors (needs SciPy)."""

from typing import NamedTuple

import torch
from torch import Tensor

from saetools.data.checks import check_finite, check_rows, needs

with needs("scipy", extra="notebooks"):
    from scipy.optimize import linear_sum_assignment


class Match(NamedTuple):
    """Units paired with factors, one to one."""

    mean: float  # of the phi coefficients of the pairs, in [-1, 1]
    units: Tensor  # (P,), P = min(L, K)
    factors: Tensor  # (P,)
    phi: Tensor  # (L, K), of every unit with every factor


@torch.no_grad()
def phi_coefficients(pre_activations: Tensor, factors: Tensor) -> Tensor:
    """Correlation between "the unit is active" and "the factor is on", for each pair.

    The phi coefficient, Pearson's correlation of two binary variables.

    Args:
        pre_activations: (B, L); a unit is active where it is > 0.
        factors: (B, K), for the same rows; a factor is on where it is > 0.

    Returns:
        (L, K) in [-1, 1], float64 on the CPU; 0 for a unit or a factor that is always or never on.

    Example:
        >>> z = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        >>> factors = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
        >>> phi_coefficients(z, factors).tolist()
        [[1.0, 0.0]]
    """
    check_finite("pre_activations", check_rows("pre_activations", pre_activations))
    check_finite("factors", check_rows("factors", factors))
    if len(pre_activations) != len(factors):
        counts = f"{len(pre_activations)}, got {len(factors)}"
        raise ValueError(f"factors must have the rows of pre_activations, {counts}")
    active, on = ((value > 0).to("cpu", torch.float64) for value in (pre_activations, factors))
    active, on = active - active.mean(0), on - on.mean(0)
    scale = active.norm(dim=0)[:, None] * on.norm(dim=0)
    return torch.where(scale > 0, active.T @ on / scale, 0.0)


def match_factors(pre_activations: Tensor, factors: Tensor) -> Match:
    """Pair units with factors, one to one, so that the mean of `phi_coefficients` is largest.

    By the Hungarian method, scipy.optimize.linear_sum_assignment.

    Example:
        >>> factors = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
        >>> match = match_factors(factors.flip(1) - 0.5, factors)
        >>> round(match.mean, 6), match.factors.tolist()
        (1.0, [1, 0])
    """
    phi = phi_coefficients(pre_activations, factors)
    pairs = linear_sum_assignment(phi.numpy(), maximize=True)
    units, paired = map(torch.as_tensor, pairs)
    return Match(phi[units, paired].mean().item(), units, paired, phi)
