"""Numbers that left the graph, and whether they come back.

A Python number cannot be followed, but it can be recognised: a float with all its digits seldom
comes up twice by chance.
"""

from collections import OrderedDict

from saetools.gradients.tensors import flatten
from saetools.gradients.values import Cut, Cuts

_MOST = 4096  # numbers kept in mind; the oldest are forgotten first
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

    def among(self, values: object) -> Cuts:
        """The cuts by which any of these values left."""
        if not self._cuts:
            return frozenset()
        floats = (value for value in flatten(values) if isinstance(value, float))
        return frozenset(self._cuts[value] for value in floats if value in self._cuts)


def _is_telling(value: float) -> bool:
    """Whether the number has digits enough to be recognised.

    >>> [_is_telling(v) for v in (0.0, 1.0, 0.125, 0.731058597564697, float("nan"))]
    [False, False, False, True, False]
    """
    return value == value and float(f"{value:.{_DIGITS}g}") != value
