"""Does a cut matter? Where the value behind it goes, and whether it was cut on purpose.

A gradient is lost where the value behind the cut is one term of a sum, as the penalty is in
`error + penalty`. As a factor, a condition or an index it is a mask, and a detached tensor in an
elementwise sum is a stopped gradient: both are there on purpose, unless they are all that lies
between a loss and a parameter, which `verdict` looks at. A sum that is a value and a slope is a
straight-through estimator, however it is written.
"""

from torch import Tensor

from saetools.gradients.tensors import is_leaf, names
from saetools.gradients.values import Cut, Cuts, Seen, Terms, Value

NO_CUTS: Cuts = frozenset()
_SIGNS = {
    **dict.fromkeys(("add", "add_", "__radd__"), (1, 1)),
    **dict.fromkeys(("sub", "sub_", "subtract", "__sub__"), (1, -1)),
    **dict.fromkeys(("rsub", "__rsub__"), (-1, 1)),
}
_JOINING = set(_SIGNS) | set(
    names("stack cat concat concatenate hstack vstack __setitem__ copy_ lerp addcmul")
)
PRODUCTS = set(
    names(
        "linear matmul __matmul__ __rmatmul__ mm bmm einsum bilinear addmm conv1d conv2d "
        "conv3d baddbmm lstm gru lstm_cell gru_cell rnn_tanh rnn_relu rnn_tanh_cell "
        "conv_transpose2d mv dot multi_head_attention_forward scaled_dot_product_attention"
    )
)
_SAME = ("expand", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "clone", "expand_as")
_SCALES = ("mul", "__rmul__", "div", "neg", "view", "reshape", "to", "float")
_MOST_TERMS = 64  # of a sum that is followed; a straight-through estimator has three


class Flow:
    """Joins what is known of the inputs of an operation to what is known of its output."""

    def __init__(self) -> None:
        self.straight_through = 0  # sites, one bit each
        self._number = 0

    def join(self, seen: Seen, is_one: bool = False, numbers: Cuts = NO_CUTS) -> Value:
        """What is known of the output.

        Args:
            seen: the call.
            is_one: whether the output has a single entry, as a term of a loss has.
            numbers: cuts that come in as Python numbers.
        """
        name, out = seen.call.name, Value()
        live, dead = NO_CUTS, numbers
        for value, needs, tensor in zip(seen.values, seen.required, seen.inputs, strict=True):
            out.every |= value.every
            out.origin |= value.origin
            if not needs:
                dead |= value.lost
                continue
            out.leaves |= value.leaves
            if value.lost:  # detach().requires_grad_() starts anew, and says so
                is_new = is_leaf(tensor)
                live |= frozenset(cut for cut in value.lost if not (is_new and cut.explicit))
        for cut in numbers:
            cut.site.joined = True
            out.every |= cut.site.bit
        if self._is_straight_through(name, seen.inputs, seen.values, out):
            for cut in live | dead:
                self.straight_through |= cut.site.bit
            return out
        if seen.carries and name in PRODUCTS:  # an input of a layer is no term of the loss
            live, dead = frozenset(cut for cut in live if cut.in_weights), NO_CUTS
        elif seen.carries and name not in _JOINING:
            dead = NO_CUTS
        elif seen.carries and dead:
            # Beside a graph, what is explicit is there on purpose: the target in x - target; and
            # so is what was cut from a term of the same sum, as in p + (p == 0).float() * eps.
            own = {id(value) for _, value in seen.flowing()}
            dead = frozenset(cut for cut in dead if id(cut.source) not in own)
            is_plain = _SIGNS.get(name, (1, 1)) == (1, 1)
            if not is_one or not is_plain:
                for cut in dead:
                    cut.stopped = cut.stopped or cut.explicit
            if not is_one and not is_plain:
                dead = frozenset(cut for cut in dead if cut.in_weights)
        if live or dead:
            out.lost = frozenset(cut for cut in live | dead if not cut.stopped)
        return out

    def cut(self, cut: Cut, out: Value) -> None:
        """Write a new cut into what is known of its output."""
        out.lost |= {cut}
        out.every |= cut.site.bit
        out.leaves = 0

    def _terms(self, tensor: Tensor, value: Value) -> Terms:
        """`tensor` as a sum: (which value, whether its gradient flows) -> how many times."""
        if value.terms is None:
            self._number += 1
            value.terms = {(self._number, tensor.requires_grad): 1}
        return value.terms

    def _is_straight_through(
        self, name: str, inputs: list[Tensor], values: list[Value], out: Value
    ) -> bool:
        """Whether the output is a sum in which soft - soft.detach() brings nothing but a slope.

        hard + soft - soft.detach(), soft + (hard - soft).detach(), ... What is found of the
        output is written into `out`.
        """
        if name in ("detach", "data"):
            terms = self._terms(inputs[0], values[0])
            out.terms = {(value, False): times for (value, _), times in terms.items()}
            return False
        if name in _SAME and len(inputs) == 1:
            out.terms = self._terms(inputs[0], values[0])
        if name in _SCALES and any(value.is_slope for value in values):
            out.is_slope = True
            return False
        if name not in _SIGNS or len(inputs) != 2 or inputs[0].shape != inputs[1].shape:
            return False
        if any(value.is_slope for value in values):
            return True
        total: Terms = {}
        for tensor, value, sign in zip(inputs, values, _SIGNS[name], strict=True):
            for term, times in self._terms(tensor, value).items():
                total[term] = total.get(term, 0) + sign * times
        total = {term: times for term, times in total.items() if times}
        if len(total) > _MOST_TERMS:
            return False
        out.terms = total
        pairs = [v for (v, flows), n in total.items() if flows and total.get((v, False)) == -n]
        out.is_slope = bool(pairs) and len(total) == 2 * len(pairs)
        return bool(pairs)
