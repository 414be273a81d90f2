"""How often a unit is active."""

import torch
from torch import Tensor

from saetools._checks import check_tensor


def activation_frequency(pre_activations: Tensor, *, dim: int | tuple[int, ...] = -2) -> Tensor:
    """Share of the rows on which each unit is active, that is, its pre-activation is > 0.

    The hard count, the one that is reported. It carries no gradient: a comparison has none.

    Args:
        pre_activations: (..., B, L). Latents behind a ReLU give the same count.
        dim: the dim or dims to average over, the batch by default.

    Returns:
        (..., L) in [0, 1], float32 or better, without a gradient. NaN counts as not active.

    Raises:
        TypeError: if pre_activations is not a floating tensor.
        ValueError: if it is empty or has fewer than two dims.

    Example:
        >>> import torch
        >>> activation_frequency(torch.tensor([[1.0, -1.0], [2.0, 3.0]]))
        tensor([1.0000, 0.5000])
    """
    check_tensor("pre_activations", pre_activations, dims=2)
    exact = torch.promote_types(pre_activations.dtype, torch.float32)
    return (pre_activations > 0).to(exact).mean(dim)
