"""What is to be known before an operation, because it may change its inputs in place."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from saetools.gradients.units import Silence, bounds, counts_entries, find_silence
from saetools.gradients.values import Value

_ALWAYS, _NOW_AND_AGAIN = 32, 16  # looking for silent units costs more than a ReLU


class Before(NamedTuple):
    """What was known before an operation, which may change its inputs in place."""

    required: list[bool]
    values: list[Value]
    nodes: list[Any]  # the autograd nodes of the inputs
    was_bad: bool  # some of what it is to write over was not finite
    silence: Silence | None
    by_entry: bool


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
        silence = find_silence(inputs[0], limits) if is_time else None
        return silence, counts_entries(name, args, limits)
