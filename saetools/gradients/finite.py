"""The first operation whose value is not finite although what went in was."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from saetools.gradients.frames import NOWHERE, find_caller
from saetools.gradients.leaves import Leaves
from saetools.gradients.tensors import State, flatten, has_nan, has_slope, is_bad, state_of
from saetools.gradients.values import Operation, Seen, Value


def came_bad(tensor: Tensor, leaves: Leaves) -> frozenset[Operation]:
    """Where NaN or infinity came from, in a tensor that was not seen in the making."""
    if not (tensor.requires_grad or has_nan(tensor)):
        return frozenset()  # infinity in the data is a mask
    what = "the data"
    if isinstance(tensor, nn.Parameter):
        name = leaves.meet(tensor).name
        what = "the weights" + (f" ({name})" if name else "")
    why = f"NaN or infinity is already in {what}"
    return frozenset({Operation(-1, "", "", NOWHERE, why_bad=why)})


class Finite:
    """Watches values. -inf that is put in by hand is a mask, and no fault."""

    def __init__(self, leaves: Leaves) -> None:
        self._leaves = leaves
        self.bad: dict[Operation, None] = {}  # the first ones, in order; they may do no harm

    def see(self, operation: Operation, seen: Seen, outputs: Sequence[Tensor], out: Value) -> None:
        """Note at the operation, and at its output, where what is not finite came from."""
        for value in seen.values:
            if value.bad:
                operation.bad |= value.bad
        # A view holds nothing new.
        new = [t for t in outputs if has_slope(t) and (operation.bad or not t._is_view())]
        states = [state_of(t) for t in new]
        is_zero = (state is State.ZERO for state in states)
        out.is_zero = all(is_zero) if states else any(value.is_zero for value in seen.values)
        if State.BAD not in states:
            return
        for tensor in seen.inputs:
            if isinstance(tensor, nn.Parameter) and not operation.bad and is_bad(tensor):
                operation.bad = came_bad(tensor, self._leaves)  # since the last step
        out.bad = operation.bad
        in_data = [first for first in operation.bad if first.order < 0]
        if in_data and seen.carries:
            operation.why_bad = in_data[0].why_bad
        elif operation.bad or not _is_first(seen, outputs):
            return
        if operation.place is NOWHERE:
            operation.place = find_caller().place
        self.bad[operation] = None
        operation.bad = out.bad = frozenset({operation})


def _is_first(seen: Seen, outputs: Sequence[Tensor]) -> bool:
    """Whether it made NaN of what was none, or infinity of what was finite."""
    makes_nan = any(map(has_nan, outputs))
    others = [t for t in seen.inputs if all(t is not out for out in outputs)]
    numbers = [number for number in flatten(seen.arguments) if isinstance(number, float)]
    if makes_nan and not any(map(has_nan, others)):
        return not any(map(math.isnan, numbers))
    if any(map(is_bad, others)):
        return False
    return (seen.carries or makes_nan) and all(map(math.isfinite, numbers))
