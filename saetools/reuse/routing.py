"""Routers that choose k of n: by how much each choice is made."""

import torch
from torch import Tensor

from saetools.data.checks import check_count, check_tensor


def top_k_margins(logits: Tensor, k: int) -> Tensor:
    """How far each logit is above the place where the k largest of its row end.

    (..., n), of the shape of logits: > 0 for the k that `logits.topk(k)` chooses, and for no other.
    It makes a router's load a frequency like any: `activation_frequency` of it is the load, and
    `frequency_penalty(margins, rho=k / n)` has a gradient by the logits, where counts have none.
    Give it a temperature of about 0.3 times the margins' spread. The place is half-way between the
    k-th and the next, and held fixed in the gradient, so that a logit answers for itself. A row in
    which these two are equal has neither of them above.

    Args:
        logits: (..., n), before the softmax.
        k: how many are chosen, from 1 to n - 1.

    Example:
        >>> top_k_margins(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), k=2)
        tensor([[ 1.5000, -0.5000,  0.5000, -1.5000]])
    """
    z = check_tensor("logits", logits, dims=1)
    if check_count("k", k) >= z.shape[-1]:
        raise ValueError(f"k must be less than the {z.shape[-1]} logits of a row, got {k}")
    largest = z.detach().topk(k + 1, dim=-1).values
    return z - torch.lerp(largest[..., k - 1 : k], largest[..., k:], 0.5)
