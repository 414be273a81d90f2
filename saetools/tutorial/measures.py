"""Measures that do not contain the frequency, and an interval for a count."""

import math

import torch
from torch import Tensor

from saetools.data.checks import needs


def phi_ceiling(p: Tensor, q: Tensor) -> Tensor:
    """The largest phi that two columns can have which are on in shares p and q of the rows.

    sqrt(p (1 - q) / (q (1 - p))) for p <= q: the rarer is on only where the other is.

    Source: Davenport and El-Sanhurry 1991, Phi/phimax: review and synthesis, Educational and
    Psychological Measurement 51.

    Example:
        >>> phi_ceiling(torch.tensor([0.15, 0.3]), torch.tensor([0.15, 0.15]))
        tensor([1.0000, 0.6417])
    """
    rare, common = torch.minimum(p, q), torch.maximum(p, q)
    return (rare * (1 - common) / (common * (1 - rare))).sqrt()


def auc(values: Tensor, factors: Tensor) -> Tensor:
    """The chance that a row with the factor has a larger value than one without it, (L, K).

    The area under the receiver operating characteristic; 1/2 for a unit that takes no notice.
    No threshold enters, and so no frequency.

    Args:
        values: (B, L); ties count as half.
        factors: (B, K), on where > 0.

    Example:
        >>> auc(torch.tensor([[0.1], [0.4], [0.9]]), torch.tensor([[0.0], [0.0], [1.0]]))
        tensor([[1.]], dtype=torch.float64)
    """
    ordered = values.T.contiguous()
    sorted_ = ordered.sort(dim=-1).values
    below = torch.searchsorted(sorted_, ordered)
    to_here = torch.searchsorted(sorted_, ordered, right=True)
    ranks = (below + to_here + 1).double() / 2  # (L, B), from 1
    on = (factors > 0).double()
    present = on.sum(0)
    pairs = present * (len(on) - present)
    return (ranks @ on - present * (present + 1) / 2) / pairs


def paired_mean(scores: Tensor) -> float:
    """The mean over pairs, one to one, of units and factors, (L, K), that makes it largest."""
    with needs("scipy", extra="notebooks"):
        from scipy.optimize import linear_sum_assignment

    units, factors = linear_sum_assignment(scores.numpy(), maximize=True)
    return float(scores[units, factors].mean())


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, from a count.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.

    Example:
        >>> [round(end, 2) for end in wilson(60, 64)]
        [0.85, 0.98]
    """
    z = 1.96
    middle, width = (
        count / of + z**2 / (2 * of),
        z * math.sqrt(count * (of - count) / of**3 + z**2 / (4 * of**2)),
    )
    scale = 1 + z**2 / of
    return (middle - width) / scale, (middle + width) / scale
