"""The first operation whose value is not finite although what went in was."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from saetools.gradients.frames import NOWHERE, find_caller
from saetools.gradients.leaves import Leaves
from saetools.gradients.tensors import State, flatten, has_nan, has_slope, is_bad, state_of
from saetools.gradients.values import Operation, Value

ZERO, BAD = State.ZERO, State.BAD

if TYPE_CHECKING:
    from saetools.gradients.before import Before


def came_bad(tensor: Tensor, leaves: Leaves) -> frozenset[Operation]:
    """Where NaN or infinity came from, in a tensor that was not seen in the making."""
    if not (tensor.requires_grad or has_nan(tensor)):
        return frozenset()  # infinity in the data is a mask
    leaf = leaves.known(tensor)
    what = "the weights" if isinstance(tensor, nn.Parameter) else "the data"
    name = f" ({leaf.name})" if leaf is not None and leaf.name else ""
    why = f"NaN or infinity is already in {what}{name}"
    return frozenset({Operation(-1, "", "", NOWHERE, why_bad=why)})


def _any_zero(before: "Before") -> bool:
    return any(value.is_zero for value in before.values)


class Finite:
    """Watches values. -inf that is put in by hand is a mask, and no fault."""

    def __init__(self, leaves: Leaves) -> None:
        self._leaves = leaves
        self.bad: dict[Operation, None] = {}  # the first ones, in order; they may do no harm

    def see(
        self,
        operation: Operation,
        before: "Before",
        inputs: Sequence[Tensor],
        arguments: Any,
        outputs: Sequence[Tensor],
        out: Value,
        carries: bool,
    ) -> None:
        """Note at the operation, and at its output, where what is not finite came from."""
        for value in before.values:
            if value.bad:
                operation.bad |= value.bad
        # A view holds nothing new.
        new = [t for t in outputs if operation.bad or not t._is_view()]
        states = [state_of(t) for t in new if has_slope(t)]
        out.is_zero = all(s is ZERO for s in states) if states else _any_zero(before)
        if BAD not in states:
            return
        for tensor in inputs:
            if isinstance(tensor, nn.Parameter) and not operation.bad and is_bad(tensor):
                operation.bad = came_bad(tensor, self._leaves)  # since the last step
        out.bad = operation.bad
        in_data = [first for first in operation.bad if first.order < 0]
        if operation.bad and not (in_data and carries):
            return
        if in_data:
            operation.why_bad = in_data[0].why_bad
        elif not self._is_first(before, inputs, arguments, outputs, carries):
            return
        if operation.place is NOWHERE:
            operation.place = find_caller().place
        self.bad[operation] = None
        operation.bad = out.bad = frozenset({operation})

    def _is_first(
        self,
        before: "Before",
        inputs: Sequence[Tensor],
        arguments: Any,
        outputs: Sequence[Tensor],
        carries: bool,
    ) -> bool:
        """Whether it made NaN of what was none, or infinity of what was finite."""
        makes_nan = any(map(has_nan, outputs))
        others = [t for t in inputs if all(t is not out for out in outputs)]
        if makes_nan and not any(map(has_nan, others)):
            return not any(math.isnan(n) for n in flatten(arguments) if isinstance(n, float))
        if before.was_bad or any(map(is_bad, others)):
            return False
        numbers = (number for number in flatten(arguments) if isinstance(number, float))
        return (carries or makes_nan) and all(map(math.isfinite, numbers))
