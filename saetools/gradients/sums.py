"""Straight-through estimators, however they are written: a sum that is a value and a slope."""

from collections.abc import Sequence

from torch import Tensor

from saetools.gradients.values import Terms, Value

SIGNS = {
    **dict.fromkeys(("add", "add_", "__radd__"), (1, 1)),
    **dict.fromkeys(("sub", "sub_", "subtract", "__sub__"), (1, -1)),
    **dict.fromkeys(("rsub", "__rsub__"), (-1, 1)),
}
DETACHES = ("detach", "data")
_SAME = ("expand", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "clone", "expand_as")
_SCALES = ("mul", "__rmul__", "div", "neg", "view", "reshape", "to", "float")
_MOST_TERMS = 64  # of a sum that is followed; a straight-through estimator has three


class Sums:
    """Follows a tensor as a sum of terms, each with or without its gradient."""

    def __init__(self) -> None:
        self._number = 0

    def terms(self, tensor: Tensor, value: Value) -> Terms:
        """`tensor` as a sum: (which value, whether its gradient flows) -> how many times."""
        if value.terms is None:
            self._number += 1
            value.terms = {(self._number, tensor.requires_grad): 1}
        return value.terms

    def is_straight_through(
        self, name: str, inputs: Sequence[Tensor], values: Sequence[Value], out: Value
    ) -> bool:
        """Whether the output is a sum in which soft - soft.detach() brings nothing but a slope.

        hard + soft - soft.detach(), soft + (hard - soft).detach(), ... What is found of the
        output is written into `out`.
        """
        if name in DETACHES:
            terms = self.terms(inputs[0], values[0])
            out.terms = {(value, False): times for (value, _), times in terms.items()}
            return False
        if name in _SAME and len(inputs) == 1:
            out.terms = self.terms(inputs[0], values[0])
        if name in _SCALES and any(value.is_slope for value in values):
            out.is_slope = True
            return False
        if name not in SIGNS or len(inputs) != 2 or inputs[0].shape != inputs[1].shape:
            return False
        if any(value.is_slope for value in values):
            return True
        total: Terms = {}
        for tensor, value, sign in zip(inputs, values, SIGNS[name], strict=True):
            for term, times in self.terms(tensor, value).items():
                total[term] = total.get(term, 0) + sign * times
        total = {term: times for term, times in total.items() if times}
        if len(total) > _MOST_TERMS:
            return False
        out.terms = total
        pairs = [v for (v, flows), n in total.items() if flows and total.get((v, False)) == -n]
        out.is_slope = bool(pairs) and len(total) == 2 * len(pairs)
        return bool(pairs)
