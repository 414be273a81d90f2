"""Rows of units out of feature maps and padded sequences, pooled as asked and never guessed."""

from numbers import Integral

import torch
from torch import Tensor

from saetools.data.checks import check_tensor


def pool_rows(pre_activations: Tensor, *, units_dim: int, mask: Tensor | None = None) -> Tensor:
    """The places at which each unit is counted, one a row: every dim but the units' pooled.

    Feature maps (B, C, H, W), whose units are the channels, have units_dim=1 and B H W rows;
    sequences (B, T, L) have units_dim=-1 and B T rows, or fewer, where a mask leaves out padding.

    Args:
        pre_activations: at least two dims, of which one is the units.
        units_dim: which one; negative counts from the end.
        mask: bool, True where a place counts, False where it is padding: a dim for each dim but
            the units', in their order, of the same size or 1. For lengths (B,) of sequences
            it is `torch.arange(T) < lengths[:, None]`; the padding masks of torch.nn's attention
            say the opposite, ~mask.

    Returns:
        (rows, L), in the order of the dims. What the mask leaves out, NaN included, reaches neither
        it nor its gradient by pre_activations, which is 0 there.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if shapes do not fit, or the mask leaves no row.

    In a function compiled by torch.compile, a mask breaks the graph, as the number of rows depends
    on it; a model can be compiled, and its penalty computed outside.

    Example:
        >>> maps = torch.randn(8, 3, 5, 5)
        >>> pool_rows(maps, units_dim=1).shape
        torch.Size([200, 3])
        >>> sequences, lengths = torch.randn(4, 10, 3), torch.tensor([10, 7, 2, 1])
        >>> pool_rows(sequences, units_dim=-1, mask=torch.arange(10) < lengths[:, None]).shape
        torch.Size([20, 3])

        A layer of any model, at the asked frequency from the start:

        >>> from torch import nn
        >>> from saetools import Capture, activation_frequency, target_frequency_
        >>> model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 3))
        >>> images = torch.rand(50, 1, 8, 8)
        >>> with torch.no_grad(), Capture(model, "0") as captured:
        ...     output = model(images)
        ...     rows = pool_rows(captured["0"], units_dim=1)
        ...     bias = target_frequency_(model[0].bias, rows, rho=0.2)
        ...     output = model(images)  # again, with the new bias
        >>> activation_frequency(pool_rows(captured["0"], units_dim=1))
        tensor([0.2000, 0.2000, 0.2000])
    """
    check_tensor("pre_activations", pre_activations, dims=2)
    if isinstance(units_dim, bool) or not isinstance(units_dim, Integral):
        raise TypeError(f"units_dim must be an int, got {units_dim!r}")
    dims = pre_activations.ndim
    if not -dims <= units_dim < dims:
        raise ValueError(
            f"units_dim must be one of the {dims} dims of pre_activations, from {-dims} to "
            f"{dims - 1}, got {units_dim}"
        )
    places = pre_activations.movedim(int(units_dim), -1)
    rows = places.flatten(0, -2)
    if mask is None:
        return rows
    kept = _checked(mask, places.shape[:-1]).to(rows.device).flatten().nonzero().squeeze(1)
    if len(kept) == 0:
        raise ValueError("mask must leave at least one row, got False everywhere")
    return rows.index_select(0, kept)


def _checked(mask: object, shape: torch.Size) -> Tensor:
    """`mask` in the shape of the places."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must have the dtype torch.bool, got {mask.dtype}: use mask.bool()")
    fits = mask.ndim == len(shape) and all(
        size in (1, places) for size, places in zip(mask.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            "mask must have the dims of pre_activations without the units', each of the same size "
            f"or 1: {tuple(shape)}, got {tuple(mask.shape)}"
        )
    return mask.expand(shape)
