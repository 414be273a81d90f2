"""Numbers that left the graph, and whether they come back.

A Python number cannot be followed, but it can be recognised: a float with all its digits seldom
comes up twice by chance.
"""

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor

from saetools.gradients.tensors import flatten, has_slope, is_readable
from saetools.gradients.values import Cut, Cuts

_MOST = 4096  # numbers kept in mind; the oldest are forgotten first
_MOST_ENTRIES = 64  # of a tensor in which numbers are looked for
_DIGITS = 4  # a number with fewer is common, and tells nothing


class Numbers:
    """Python numbers, by their value, and the cuts through which they left the graph."""

    def __init__(self) -> None:
        self._cuts: OrderedDict[float, Cut] = OrderedDict()

    def left(self, number: object, cut: Cut) -> None:
        """Keep in mind that `number`, or the numbers in this list, left by `cut`."""
        for value in flatten(number):
            if isinstance(value, float) and _is_telling(value):
                self._cuts[value] = cut
        while len(self._cuts) > _MOST:
            self._cuts.popitem(last=False)

    def among(self, values: Iterable[object]) -> Cuts:
        """The cuts by which any of these values left."""
        if not self._cuts:
            return frozenset()
        return frozenset(
            self._cuts[value]
            for value in flatten(list(values))
            if isinstance(value, float) and value in self._cuts
        )

    def inside(self, tensor: Tensor) -> Cuts:
        """The cuts by which entries of a small tensor left, that was made from numbers."""
        small = self._cuts and 0 < tensor.numel() <= _MOST_ENTRIES and tensor.device.type == "cpu"
        if not small or not is_readable(tensor) or not has_slope(tensor) or tensor.is_complex():
            return frozenset()
        return self.among(tensor.detach().flatten().tolist())


def _is_telling(value: float) -> bool:
    """Whether the number has digits enough to be recognised.

    >>> [_is_telling(v) for v in (0.0, 1.0, 0.125, 0.731058597564697, float("nan"))]
    [False, False, False, True, False]
    """
    return value == value and float(f"{value:.{_DIGITS}g}") != value
