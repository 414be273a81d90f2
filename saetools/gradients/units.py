"""Units that are silent: on every row beyond the bound of a ReLU, a clamp, ...

A unit that is silent in one batch proves little. At their default initialisation ordinary ReLU
networks have some, most of which are active on other rows. What counts as evidence: how far the
pre-activation stays away from the bound, in spreads; how many of the units; how many rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saetools.gradients.tensors import grad_fn_of, is_leaf, is_readable, tensors_in

ENOUGH_ROWS = 32  # with fewer, a healthy unit is silent by chance
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("relu", "relu_", "threshold"), (0.0, math.inf)),
    **dict.fromkeys(("relu6", "hardtanh_"), (0.0, 6.0)),
    "hardtanh": (-1.0, 1.0),
    **dict.fromkeys(("hardsigmoid", "hardswish"), (-3.0, 3.0)),
}
_CLAMPS = ("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_max")


@dataclass(slots=True)
class Silence:
    """Which units are beyond the bound on every row, and how far."""

    units: Tensor  # (units,), bool
    spreads: float  # from the bound to the mean, the median of these units
    side: str  # "below" or "above"
    bound: float

    @property
    def share(self) -> float:
        """The share of the units."""
        return float(self.units.float().mean())


def unit_dim(tensor: Tensor) -> int:
    """The dim of the units: the channels of an image, and else the last one."""
    return 1 if tensor.ndim in (4, 5) else tensor.ndim - 1


def rows_of(tensor: Tensor) -> list[int]:
    """All other dims."""
    return [dim for dim in range(tensor.ndim) if dim != unit_dim(tensor)]


def bounds(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[float, float] | None:
    """Between which pre-activations the operation has a slope, or None if that is not known.

    >>> bounds("clamp", (None, -20, 2), {}), bounds("clamp", (None,), {"min": 0.1})
    ((-20.0, 2.0), (0.1, inf))
    """
    if name not in _CLAMPS:
        return _BOUNDS.get(name)
    low, high = [*args[1:3], None, None][:2]
    if name in ("clamp_min", "clamp_max"):
        low, high = (low, None) if name == "clamp_min" else (None, low)
    low, high = kwargs.get("min", low), kwargs.get("max", high)
    if not all(isinstance(value, int | float | None) for value in (low, high)):
        return None
    return (-math.inf if low is None else float(low), math.inf if high is None else float(high))


def find_silence(pre: Tensor, limits: tuple[float, float] | None) -> Silence | None:
    """The units of a pre-activation that are beyond one bound on every row, or None.

    Args:
        pre: (..., units), or (rows, channels, ...) of an image.
        limits: where the operation has a slope.
    """
    if limits is None or pre.ndim < 2 or not is_readable(pre) or pre.numel() == 0:
        return None
    if pre.numel() // pre.shape[unit_dim(pre)] < ENOUGH_ROWS:
        return None
    pre = pre.detach()
    rows = rows_of(pre)
    for side, bound in (("below", limits[0]), ("above", limits[1])):
        if math.isinf(bound):
            continue
        is_beyond = pre.amax(rows) <= bound if side == "below" else pre.amin(rows) >= bound
        if is_beyond.any():
            few = pre.movedim(unit_dim(pre), 0)[is_beyond].flatten(1).float()  # (units, rows)
            distance, spread = (few.mean(1) - bound).abs(), few.std(1)
            spreads = (distance / spread.clamp(min=1e-12)).median().item()
            return Silence(is_beyond, spreads, side, bound)
    return None


def share_lost(silence: Silence, came: Tensor, left: Tensor) -> float:
    """The share of units that are silent, get a gradient on enough rows, and send none on."""
    if (
        came.shape != left.shape
        or came.ndim < 2
        or silence.units.numel() != came.shape[unit_dim(came)]
    ):
        return 0.0
    rows = rows_of(came)
    wanted = (came != 0).sum(rows) >= ENOUGH_ROWS
    heard = (left != 0).any(dim=rows[0]) if len(rows) == 1 else (left != 0).sum(rows) > 0
    return float((silence.units & wanted & ~heard).float().mean())


def counts_entries(name: str, args: Sequence[Any], limits: tuple[float, float] | None) -> bool:
    """Whether each entry of the input is a unit of its own: a parameter, or a mean over rows."""
    if not args or not isinstance(args[0], Tensor):
        return False
    pre = args[0]
    if name == "__setitem__" and any(t.requires_grad for t in tensors_in(args[2:])):
        return False  # what is written may be made from what it overwrites
    if pre.ndim == 1 and _averages_over_rows(grad_fn_of(pre)):
        return True
    return (
        limits is not None
        and is_leaf(pre)
        and pre.requires_grad
        and isinstance(pre, torch.nn.Parameter)
    )


def share_of_entries_lost(came: Tensor, left: Tensor) -> float:
    """The share of entries at which a gradient comes and none leaves."""
    return float(((came != 0) & (left == 0)).float().mean()) if came.shape == left.shape else 0.0


def _averages_over_rows(node: Any) -> bool:
    """Whether a vector is one number a unit: a sum or mean over dim 0, a few steps ago."""
    for _ in range(4):
        if node is None or hasattr(node, "variable"):
            return False
        if node.name() in ("MeanBackward1", "SumBackward1"):
            return 0 in node._saved_dim
        node = node.next_functions[0][0] if node.next_functions else None
    return False
