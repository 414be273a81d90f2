"""Does a cut matter? Where the value behind it goes, and whether it was cut on purpose.

A lost gradient is lost where the value behind the cut is one term of a sum, as the penalty is in
`error + penalty`. As a factor, a condition or an index it is a mask, and a detached tensor in an
elementwise sum is a stopped gradient: both are there on purpose, unless they are all that lies
between a loss and a parameter, which `verdict` looks at.
"""

from collections.abc import Sequence

from torch import Tensor

from saetools.gradients.sums import SIGNS, Sums
from saetools.gradients.tensors import is_leaf
from saetools.gradients.values import Cut, Cuts, Value

NO_CUTS: Cuts = frozenset()
JOINING = {
    *SIGNS,
    *("stack", "cat", "concat", "concatenate", "hstack", "vstack"),
    *("__setitem__", "copy_", "lerp", "addcmul", "add_n"),
}
PRODUCTS = {
    *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "einsum", "bilinear", "addmm"),
    *("conv1d", "conv2d", "conv3d", "baddbmm", "lstm", "gru", "lstm_cell", "gru_cell"),
    *("rnn_tanh", "rnn_relu", "rnn_tanh_cell", "conv_transpose2d", "mv", "dot"),
    *("multi_head_attention_forward", "scaled_dot_product_attention"),
}


class Flow:
    """Joins what is known of the inputs of an operation to what is known of its output."""

    def __init__(self) -> None:
        self.sums = Sums()
        self.straight_through = 0  # sites, one bit each

    def join(
        self,
        name: str,
        inputs: Sequence[Tensor],
        required: Sequence[bool],
        values: Sequence[Value],
        carries: bool,
        is_one: bool,
        numbers: Cuts = NO_CUTS,
    ) -> Value:
        """What is known of the output.

        Args:
            name: the bare name of the operation.
            inputs: its tensors.
            required: whether each of them carried a gradient.
            values: what was known of each, before an operation in place.
            carries: whether the output carries a gradient.
            is_one: whether the output has a single entry, as a term of a loss has.
            numbers: cuts that come in as Python numbers.
        """
        out = Value()
        live, dead = NO_CUTS, numbers
        for value, needs, tensor in zip(values, required, inputs, strict=True):
            out.every |= value.every
            out.origin |= value.origin
            lost = value.lost
            if needs and lost and is_leaf(tensor):
                # detach().requires_grad_() starts anew, and says so
                lost = frozenset(cut for cut in lost if not cut.explicit)
            if needs:
                live |= lost
                out.leaves |= value.leaves
            else:
                dead |= lost
        out.take(numbers)
        out.pure = bool(inputs) and all(
            value.pure or (not needs and tensor.numel() == 1 and not value.origin)
            for value, needs, tensor in zip(values, required, inputs, strict=True)
        )
        if self.sums.is_straight_through(name, inputs, values, out):
            for cut in live | dead:
                self.straight_through |= cut.site.bit
            out.lost = NO_CUTS
            return out
        if live:
            live = frozenset(cut for cut in live if not cut.stopped)
        if dead:
            dead = frozenset(cut for cut in dead if not cut.stopped)
        if carries and name in PRODUCTS:  # an input of a layer is no term of the loss
            out.lost = frozenset(cut for cut in live if cut.in_weights)
        elif carries and name not in JOINING:
            out.lost = live
        else:
            signs = SIGNS.get(name, (1, 1))
            if carries and dead and (not is_one or signs != (1, 1)):
                dead = self._beside_a_graph(name, inputs, values, dead, is_one)
            out.lost = live | dead
        return out

    def _beside_a_graph(
        self,
        name: str,
        inputs: Sequence[Tensor],
        values: Sequence[Value],
        dead: Cuts,
        is_one: bool,
    ) -> Cuts:
        """Without what is there on purpose: stopped gradients, targets, the floor in x - floor."""
        if name in SIGNS:
            if not is_one and SIGNS[name] != (1, 1):
                dead_now = frozenset(cut for cut in dead if cut.in_weights)
            else:
                dead_now = self._without_own(inputs, values, dead)
        else:
            dead_now = dead
        for cut in dead:
            cut.stopped = cut.stopped or cut.explicit
        return frozenset(cut for cut in dead_now if not cut.stopped)

    def _without_own(self, inputs: Sequence[Tensor], values: Sequence[Value], dead: Cuts) -> Cuts:
        """Without what was cut from a term of the same sum, as in x - x.floor()."""
        if not any(cut.sources for cut in dead):
            return dead
        there = {
            number
            for tensor, value in zip(inputs, values, strict=True)
            for number, flows in self.sums.terms(tensor, value)
            if flows
        }
        return frozenset(cut for cut in dead if not cut.sources & there)

    def sources(self, inputs: Sequence[Tensor], values: Sequence[Value]) -> frozenset[int]:
        """The terms of what goes into a cut."""
        return frozenset(
            number
            for tensor, value in zip(inputs, values, strict=True)
            for number, _ in self.sums.terms(tensor, value)
        )

    def cut(self, cut: Cut, out: Value) -> None:
        """Write a new cut into what is known of its output."""
        out.lost |= {cut}
        out.every |= cut.site.bit
        out.leaves = 0
