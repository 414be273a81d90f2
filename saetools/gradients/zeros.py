"""Where a gradient arrives and only zeros leave: read from one backward pass, node by node.

Whatever the operation is called. A zero matters where some leaf gets nothing else from the data
in all of the block (`verdict` asks), or where the operation is flat for every input and no
parameter stands between it and the loss: then a term of the loss is lost.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from saetools.gradients.leaves import Leaf
from saetools.gradients.nodes import BAD, EMPTY, NONE, SOME, ZERO, Node, Pass, leaves_behind
from saetools.gradients.tensors import State
from saetools.gradients.values import Operation

# Nodes that hand a gradient on as it is, or a share of it. A loss is a sum of terms.
_LINEAR = (
    *("Add", "Sub", "Rsub", "Neg", "Mean", "Sum", "Stack", "Cat", "View", "Reshape", "Squeeze"),
    *("Unsqueeze", "Unsafe", "Select", "Slice", "Index", "Gather", "Expand", "Clone", "ToCopy"),
    *("Permute", "Transpose", "T", "Where", "Maximum", "Minimum", "Max", "Min", "MaskedFill"),
    *("Nansum", "Copy", "Alias", "Split", "Unbind", "Diagonal", "Repeat", "CopySlices"),
)
_SCALING = ("Mul", "Div")  # linear where the other factor is a constant
# Nodes that are flat where a loss is at its best: a hinge that is satisfied, a distance of 0.
_FLOORS = (
    *("Relu", "Clamp", "Threshold", "Hardtanh", "Maximum", "Minimum", "Max", "Min", "LeakyRelu"),
    *("Abs", "Pow", "Square", "MseLoss", "L1Loss", "SmoothL1", "Huber", "Norm", "LinalgVector"),
    *("Cdist", "Amax", "Amin", "Softplus", "HingeEmbedding", "MultiMargin", "Var", "Std"),
)
_LAYERS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "Mv")
_CHOOSING = (
    *("Where", "Maximum", "Minimum", "Max", "Min", "Prelu", "ScatterReduce", "Amax", "Amin"),
    *("MaskedFill", "NativeDropout"),
)


@dataclass(slots=True, eq=False)
class Suspicion:
    """An operation at which a gradient may have turned into zeros, in one or more passes."""

    operation: Operation
    why: str  # "flat", "zero", "none", "edge", "cancels", "masked", "floor", "units", "entries"
    node: str = ""  # the autograd node, by its name
    leaves: set[Leaf] = field(default_factory=set)  # behind it
    at_output: bool = False  # no parameter between it and the loss
    share: float = 1.0


def _is(node: Node, names: tuple[str, ...]) -> bool:
    """Whether an autograd node is one of these, in any of its forms (MaxBackward1, ClampMin...)."""
    bare = node.name.partition("Backward")[0]
    return (
        bare in names
        or bare.rstrip("0123456789") in names
        or bare.startswith(tuple(name for name in names if len(name) > 4))
    )


def _is_linear(node: Node) -> bool:
    if _is(node, _LINEAR):
        return True
    return _is(node, _SCALING) and sum(end is not None for end in node.inputs) == 1


class Reading:
    """One backward pass, and who gave what to whom in it."""

    def __init__(self, now: Pass) -> None:
        self.nodes = now.nodes
        self._consumers: dict[int, list[Node]] | None = None

    def feed_leaves(self, all_pure: bool) -> None:
        """Note at each leaf what arrived, and whether it came from the data.

        Args:
            all_pure: the loss is made of parameters alone, so that none of it is a penalty.
        """
        behind_data: set[int] = set()  # nodes to which a path through the data leads,
        fed: set[int] = set()  # and those to which something comes on it
        for node in self.nodes:
            is_sum = _is_linear(node) and not (
                _is(node, _SCALING) and len(node.operation.inputs) > 1
            )
            is_data = not (node.operation.pure or is_sum)
            has_data = is_data or id(node) in behind_data
            is_fed = (is_data and node.came in (SOME, BAD)) or id(node) in fed
            is_mixed = all_pure or not node.operation.pure
            for end, state in zip(node.inputs, node.left, strict=False):
                if isinstance(end, Leaf):
                    _feed(end, state, has_data or is_mixed, is_fed or is_mixed)
                elif end is not None and has_data and state is not NONE:
                    behind_data.add(id(end))
                    if is_fed and state in (SOME, BAD):
                        fed.add(id(end))

    def suspicions(self) -> Iterator[Suspicion]:
        """The operations at which a gradient may have turned into zeros."""
        for node in self.nodes:
            if node.operation.bad:
                continue  # what is zero there is so because of what was not finite
            if node.lost:
                yield self._lost_units(node)
            elif node.came is SOME:
                why = self._whole(node) or self._one_edge(node)
                if why:
                    at_output = node.is_flat and self._is_output(node)
                    leaves = set(leaves_behind(node))
                    if why == "none":  # then nothing is sent on, not even zeros
                        for leaf in leaves:
                            leaf.hungry = leaf.is_data_lost = True
                    yield Suspicion(node.operation, why, node.name, leaves, at_output)
            elif node.came is ZERO and node.given.count(SOME) > 1:
                yield self._cancelled(node)

    def _whole(self, node: Node) -> str:
        """Why all that leaves is zero, or "" if it is not."""
        left = [state for end, state in zip(node.inputs, node.left, strict=False) if end]
        if not left or any(state in (SOME, BAD, EMPTY) for state in left):
            return ""
        if all(state is NONE for state in left):
            return "none" if node.name.endswith("Backward") else ""
        if ZERO not in left:
            return ""
        if _is_rounding(node):
            return "" if self._meets_itself(node) else "flat"
        if _is(node, _FLOORS) and not node.operation.half and self._is_term_of_loss(node):
            return "floor"
        if node.operation.masked == "one":
            return ""  # a weight that is switched off on purpose
        if node.operation.masked == "mask" or _is(node, _CHOOSING):
            return "masked"
        return "zero"

    def _one_edge(self, node: Node) -> str:
        """ "edge" if zeros leave towards one input, for no reason that the others explain."""
        if node.left.count(ZERO) == 0 or not any(state is SOME for state in node.left):
            return ""
        # A sum, or torch.cat, hands each input its own part, which may be zeros already.
        is_explained = node.operation.zero_factor or _is(node, _CHOOSING + _LINEAR)
        is_explained = is_explained or any(_zero_inputs(node))
        return "" if is_explained else "edge"

    def _cancelled(self, node: Node) -> Suspicion:
        """What its consumers send is not zero, and adds up to zero: the last of them is named."""
        last = max(
            (other for other in self.consumers(node) if _gives(other, node) is SOME),
            key=lambda other: other.operation.order,
        )
        return Suspicion(last.operation, "cancels", last.name, set(leaves_behind(node)))

    def _lost_units(self, node: Node) -> Suspicion:
        at_output = self._is_output(node)
        why = "entries" if node.operation.by_entry else "units"
        if self._is_term_of_loss(node):
            why = "floor"
        return Suspicion(node.operation, why, node.name, set(), at_output, node.lost)

    def consumers(self, node: Node) -> list[Node]:
        """The nodes that sent something to this one."""
        if self._consumers is None:
            self._consumers = defaultdict(list)
            for other in self.nodes:
                for end in other.inputs:
                    if isinstance(end, Node):
                        self._consumers[id(end)].append(other)
        return self._consumers.get(id(node), [])

    def _above(self, node: Node) -> Iterator[Node]:
        """All nodes between the loss and this one through which a gradient came."""
        todo, seen = [node], {id(node)}
        while todo:
            below = todo.pop()
            for other in self.consumers(below):
                if id(other) not in seen and _gives(other, below) is SOME:
                    seen.add(id(other))
                    yield other
                    todo.append(other)

    def _is_term_of_loss(self, node: Node) -> bool:
        """Whether nothing but sums, means and choices lies between it and the loss."""
        return all(map(_is_linear, self._above(node)))

    def _is_output(self, node: Node) -> bool:
        """Whether no layer lies between it and the loss, frozen or not."""
        return not any(
            _is(other, _LAYERS) or any(isinstance(end, Leaf) for end in other.inputs)
            for other in self._above(node)
        )

    def _meets_itself(self, node: Node) -> bool:
        """Whether it is subtracted from its own input, as in x - x.floor(): a fraction."""
        return any(
            end is node.inputs[0]
            for other in self.consumers(node)
            if _is(other, ("Sub", "Add", "Rsub"))
            for end in other.inputs
        )


def _feed(leaf: Leaf, state: State, has_data: bool, is_fed: bool) -> None:
    if state in (SOME, BAD):
        leaf.fed |= is_fed
        leaf.penalised |= not is_fed
    elif state is ZERO:
        leaf.hungry = True
        leaf.is_data_lost |= has_data


def _gives(node: Node, to: Node) -> State:
    """What one node sent to another."""
    return max(
        (state for end, state in zip(node.inputs, node.left, strict=False) if end is to),
        default=NONE,
    )


def _is_rounding(node: Node) -> bool:
    """Whether its slope is 0 for every input."""
    rounds = any(number in ("floor", "trunc") for number in node.operation.numbers)
    return rounds or (node.is_flat and not _is(node, _LINEAR))


def _zero_inputs(node: Node) -> Iterator[bool]:
    """Of each input of its operation that is still alive: whether it is 0 everywhere."""
    for reference in node.operation.inputs:
        tensor = reference()
        if tensor is not None and not tensor.is_sparse:
            yield not bool(tensor.detach().any())
