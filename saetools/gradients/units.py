"""Units that are silent: on every row beyond the bound of a ReLU, a clamp, ...

A unit that is silent in one batch proves little. At their default initialisation ordinary ReLU
networks have some, most of which are active on other rows. What counts as evidence: how far the
pre-activation stays away from the bound, in spreads; how many of the units; how many rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from saetools.gradients.tensors import grad_fn_of, is_leaf, is_readable, tensors_in

_ENOUGH_ROWS = 32  # with fewer, a healthy unit is silent by chance
_ALWAYS, _NOW_AND_AGAIN = 32, 16  # looking for silent units costs more than a ReLU
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


def bounds(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[float, float] | None:
    """Between which pre-activations the operation has a slope, or None if that is not known.

    >>> bounds("clamp", (None, -20, 2), {}), bounds("clamp", (None,), {"min": 0.1})
    ((-20.0, 2.0), (0.1, inf))
    """
    if name not in _CLAMPS:
        return _BOUNDS.get(name)
    low, high = [*args[1:3], None, None][:2]
    if name == "clamp_max":
        low, high = None, low
    low, high = kwargs.get("min", low), kwargs.get("max", high)
    if not all(isinstance(value, int | float | None) for value in (low, high)):
        return None
    return (-math.inf if low is None else float(low), math.inf if high is None else float(high))


class Silences:
    """Looks for silent units: always at first, and then now and again."""

    def __init__(self) -> None:
        self._looked: dict[Any, int] = {}

    def look(
        self, name: str, inputs: Sequence[Tensor], args: Any, kwargs: dict[str, Any]
    ) -> tuple[Silence | None, bool]:
        """The units of the first input that are silent, and whether each entry counts."""
        limits = bounds(name, args, kwargs)
        if limits is None and name != "__setitem__":
            return None, False
        key = name, inputs[0].shape
        self._looked[key] = count = self._looked.get(key, 0) + 1
        is_time = count <= _ALWAYS or count % _NOW_AND_AGAIN == 0
        silence = find_silence(inputs[0], limits) if limits is not None and is_time else None
        return silence, _counts_entries(name, args)


def find_silence(pre: Tensor, limits: tuple[float, float]) -> Silence | None:
    """The units of (..., units), or (rows, channels, ...), beyond one bound on every row."""
    if pre.ndim < 2 or not is_readable(pre) or pre.numel() < _ENOUGH_ROWS:
        return None
    by_unit = _by_unit(pre.detach())
    if by_unit.shape[1] < _ENOUGH_ROWS:
        return None
    for side, bound in (("below", limits[0]), ("above", limits[1])):
        if math.isinf(bound):
            continue
        is_beyond = by_unit.amax(1) <= bound if side == "below" else by_unit.amin(1) >= bound
        if is_beyond.any():
            few = by_unit[is_beyond].float()
            distance, spread = (few.mean(1) - bound).abs(), few.std(1)
            spreads = (distance / spread.clamp(min=1e-12)).median().item()
            return Silence(is_beyond, spreads, side, bound)
    return None


def _by_unit(values: Tensor) -> Tensor:
    """(units, rows): of an image the channels are the units, and else the last dim is."""
    return values.movedim(1 if values.ndim in (4, 5) else -1, 0).flatten(1)


def share_lost(
    silence: Silence | None, by_entry: bool, came: Sequence[Any], left: Sequence[Any]
) -> float:
    """The share of units (or entries) at which a gradient comes and none leaves."""
    arrived, sent = ([g for g in some if g is not None][:1] for some in (came, left))
    if not arrived or not sent or arrived[0].shape != sent[0].shape:
        return 0.0
    if arrived[0].is_sparse or sent[0].is_sparse:
        return 0.0
    a, b = arrived[0].detach(), sent[0].detach()
    if by_entry:
        return float(((a != 0) & (b == 0)).float().mean())
    if silence is None or a.ndim < 2:
        return 0.0
    wanted = (_by_unit(a) != 0).sum(1) >= _ENOUGH_ROWS
    if wanted.shape != silence.units.shape:
        return 0.0
    return float((silence.units & wanted & ~(_by_unit(b) != 0).any(1)).float().mean())


def _counts_entries(name: str, args: Sequence[Any]) -> bool:
    """Whether each entry of the input is a unit of its own: a parameter, or a mean over rows."""
    if not args or not isinstance(args[0], Tensor):
        return False
    pre = args[0]
    if name == "__setitem__" and any(t.requires_grad for t in tensors_in(args[2:])):
        return False  # what is written may be made from what it overwrites
    if name != "__setitem__" and isinstance(pre, nn.Parameter) and is_leaf(pre):
        return pre.requires_grad
    node = grad_fn_of(pre) if pre.ndim == 1 else None
    for _ in range(4):  # a sum or mean over dim 0, a few steps ago
        if node is None or hasattr(node, "variable"):
            return False
        if node.name() in ("MeanBackward1", "SumBackward1"):
            return 0 in node._saved_dim
        node = node.next_functions[0][0] if node.next_functions else None
    return False
