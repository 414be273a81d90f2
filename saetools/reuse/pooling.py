"""Rows of units out of feature maps and padded sequences, pooled as asked and never guessed."""

import torch
from torch import Tensor

from saetools.data.checks import check_count, check_tensor


def pool_rows(pre_activations: Tensor, *, units_dim: int, mask: Tensor | None = None) -> Tensor:
    """The places at which each unit is counted, one per row: every dim but the units' pooled.

    Feature maps (B, C, H, W), whose units are the channels, have units_dim=1 and B H W rows;
    sequences (B, T, L) have units_dim=-1 and B T rows, or fewer, where a mask leaves out padding.
    The mask, of bools, is True where a place counts: it has the dims of pre_activations without the
    units', each of the same size or 1. The padding masks of torch.nn's attention say the opposite.
    What it leaves out, NaN included, reaches neither the value, (rows, L) in the order of the dims,
    nor the gradient; torch.compile breaks the graph at it. Of a part that is padding alone no row
    is left, (0, L): `frequency_penalty` takes it with a batch_mean, and refuses it without.

    Example:
        >>> pool_rows(torch.randn(8, 3, 5, 5), units_dim=1).shape
        torch.Size([200, 3])
        >>> sequences, lengths = torch.randn(4, 10, 3), torch.tensor([10, 7, 2, 1])
        >>> pool_rows(sequences, units_dim=-1, mask=torch.arange(10) < lengths[:, None]).shape
        torch.Size([20, 3])
    """
    check_tensor("pre_activations", pre_activations, dims=2)
    dims = pre_activations.ndim
    if check_count("units_dim", units_dim, minimum=-dims) >= dims:
        raise ValueError(f"units_dim must be at most {dims - 1}, got {units_dim}")
    places = pre_activations.movedim(int(units_dim), -1)
    rows = places.flatten(0, -2)
    if mask is None:
        return rows
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must have the dtype torch.bool, got {mask.dtype}: use mask.bool()")
    shape, found = tuple(places.shape[:-1]), tuple(mask.shape)
    if len(found) != len(shape) or any(n not in (1, m) for n, m in zip(found, shape, strict=True)):
        sizes = f"each of the same size or 1: {shape}, got {found}"
        raise ValueError(f"mask must have the dims of pre_activations without the units', {sizes}")
    counted = mask.expand(shape).to(rows.device).flatten().nonzero().squeeze(1)
    return rows.index_select(0, counted)
