"""Does a cut matter? Where the value behind it goes, and whether it was cut on purpose."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_SIGNS = {
    **dict.fromkeys(("add", "add_", "__radd__"), (1, 1)),
    **dict.fromkeys(("sub", "sub_", "subtract"), (1, -1)),
    **dict.fromkeys(("rsub", "__rsub__"), (-1, 1)),
}
_JOINING = {
    *_SIGNS,
    "stack",
    "cat",
    "concat",
    "hstack",
    "vstack",
    "__setitem__",
    "copy_",
    "lerp",
    "addcmul",
}
_DETACHES = ("detach", "data")
_SCALES = ("mul", "__rmul__", "div", "neg", "view", "reshape", "to", "float")
_MOST_TERMS = 64  # of a sum that is followed; a straight-through estimator has three

Cuts = frozenset[int]
NONE: Cuts = frozenset()


class Flow:
    """Follows cuts from tensor to tensor, by weak references.

    A lost gradient is lost where the value behind the cut is one term of a sum, as the penalty is
    in `error + penalty`. As a factor, a condition or an index it is a mask, and a detached tensor
    in an elementwise sum is a stopped gradient: both are there on purpose.
    """

    def __init__(self) -> None:
        self.explicit: set[int] = set()  # cuts by detach, .data or no_grad
        self.stopped: set[int] = set()  # of these, those that are stopped gradients
        self.straight_through: set[int] = set()
        self._slopes: Any = WeakIdKeyDictionary()  # tensors that are 0 and carry a gradient
        self._cuts: Any = WeakIdKeyDictionary()  # tensor -> the cuts in its value
        self._sums: Any = WeakIdKeyDictionary()  # tensor -> the terms of the sum that it is
        self._values = 0

    def cuts(self, tensor: Tensor) -> Cuts:
        """The cuts that `tensor` has in its value."""
        found: Cuts = self._cuts.get(tensor, NONE)
        return found

    def mark(self, tensor: Tensor, cuts: Cuts) -> None:
        """Say which cuts `tensor` has in its value; what it is a view of has them too."""
        self._cuts[tensor] = cuts
        if cuts and tensor._is_view() and tensor._base is not None:
            self._cuts[tensor._base] = self.cuts(tensor._base) | cuts

    def join(
        self,
        op: str,
        inputs: Sequence[Tensor],
        required: Sequence[bool],
        before: Sequence[Cuts],
        outputs: Sequence[Tensor],
        carries: bool,
    ) -> Cuts:
        """The cuts in the value of the outputs, but for those that are there on purpose.

        Args:
            op: the bare name of the operation.
            inputs: its tensors.
            required: whether each of them carried a gradient.
            before: the cuts that each of them had, before an operation in place.
            outputs: what came out.
            carries: whether any of that carries a gradient.
        """
        live, dead = NONE, NONE
        for tensor, cuts, has_gradient in zip(inputs, before, required, strict=True):
            if has_gradient and cuts & self.explicit and tensor.is_leaf:
                cuts -= self.explicit  # detach().requires_grad_() starts anew, and says so
            live, dead = (live | cuts, dead) if has_gradient else (live, dead | cuts)
        live, dead = live - self.stopped, dead - self.stopped
        if self._is_straight_through(op, inputs, outputs):
            self.straight_through |= live | dead
            return NONE
        if carries and op not in _JOINING:
            return live
        if carries and (outputs[0].numel() > 1 or _SIGNS.get(op, (1, 1)) != (1, 1)):
            self.stopped |= dead & self.explicit
        return live | (dead - self.stopped)

    def _terms(self, tensor: Tensor) -> dict[tuple[int, bool], int]:
        """`tensor` as a sum: (which value, whether its gradient flows) -> how many times."""
        if tensor not in self._sums:
            self._values += 1
            self._sums[tensor] = {(self._values, tensor.requires_grad): 1}
        terms: dict[tuple[int, bool], int] = self._sums[tensor]
        return terms

    def _is_straight_through(
        self, op: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> bool:
        """Whether the output is a sum in which soft - soft.detach() brings nothing but a slope.

        However it is written: hard + soft - soft.detach(), soft + (hard - soft).detach(), ...
        """
        if op in _DETACHES:
            terms = self._terms(inputs[0])
            self._sums[outputs[0]] = {(value, False): times for (value, _), times in terms.items()}
            return False
        if op in _SCALES and any(tensor in self._slopes for tensor in inputs):
            self._slopes[outputs[0]] = True
            return False
        if op not in _SIGNS or len(inputs) != 2 or inputs[0].shape != inputs[1].shape:
            return False
        if any(tensor in self._slopes for tensor in inputs):
            return True
        total: dict[tuple[int, bool], int] = {}
        for tensor, sign in zip(inputs, _SIGNS[op], strict=True):
            for term, times in self._terms(tensor).items():
                total[term] = total.get(term, 0) + sign * times
        total = {term: times for term, times in total.items() if times}
        if len(total) > _MOST_TERMS:
            return False
        self._sums[outputs[0]] = total
        pairs = [v for (v, flows), n in total.items() if flows and total.get((v, False)) == -n]
        if pairs and len(total) == 2 * len(pairs):
            self._slopes[outputs[0]] = True
        return bool(pairs)
