"""Where a gradient arrives and only zeros leave: read from one backward pass, node by node.

Whatever the operation is called. A zero matters where some leaf gets nothing else from the data
in all of the block (`verdict` asks), or where the operation is flat for every input and no
parameter stands between it and the loss: then a term of the loss is lost.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from saetools.gradients.leaves import Leaf
from saetools.gradients.tensors import State, names
from saetools.gradients.values import Operation

SOME, ZERO, BAD, NONE, EMPTY = State.SOME, State.ZERO, State.BAD, State.NONE, State.EMPTY
# Nodes that hand a gradient on as it is, or a share of it. A loss is a sum of terms.
_LINEAR = tuple(
    names(
        "Add Sub Rsub Neg Mean Sum Stack Cat View Reshape Squeeze Unsqueeze Unsafe Select "
        "Slice Index Gather Expand Clone ToCopy Permute Transpose T Where Maximum Minimum Max "
        "Min MaskedFill Nansum Copy Alias Split Unbind Diagonal Repeat CopySlices"
    )
)
_SCALING = ("Mul", "Div")  # linear where the other factor is a constant
# Nodes that are flat where a loss is at its best: a hinge that is satisfied, a distance of 0.
_FLOORS = tuple(
    names(
        "Relu Clamp Threshold Hardtanh Maximum Minimum Max Min LeakyRelu Abs Pow Square "
        "MseLoss L1Loss SmoothL1 Huber Norm LinalgVector Cdist Amax Amin Softplus "
        "HingeEmbedding MultiMargin Var Std"
    )
)
_LAYERS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "Mv")
_CHOOSING = tuple(
    names("Where Maximum Minimum Max Min Prelu ScatterReduce Amax Amin MaskedFill NativeDropout")
)


@dataclass(slots=True, eq=False)
class Node:
    """What is known of one autograd node: its operation, and the last backward pass through it."""

    operation: Operation
    name: str
    is_flat: bool  # it needs nothing to know its slope: where that is 0, it always is
    inputs: list["Node | Leaf | None"] = field(default_factory=list)  # one an edge, to the leaves
    number: int = -1  # of the backward pass that the rest is of
    given: list[State] = field(default_factory=list)  # what each consumer gave
    came: State = NONE
    left: list[State] = field(default_factory=list)  # one an edge
    lost: float = 0.0  # share of the units or entries at which a gradient came and none left

    def edges(self) -> Iterator[tuple["Node | Leaf", State]]:
        """Where its gradients went, and what they were."""
        for end, state in zip(self.inputs, self.left, strict=False):
            if end is not None:
                yield end, state

    def gives(self, to: "Node") -> State:
        """What it sent to another one."""
        return max((state for end, state in self.edges() if end is to), default=NONE)

    def is_one_of(self, names: tuple[str, ...]) -> bool:
        """Whether it is one of these, in any of its forms (MaxBackward1, ClampMin...)."""
        bare = self.name.partition("Backward")[0]
        long = tuple(name for name in names if len(name) > 4)
        return bare in names or bare.rstrip("0123456789") in names or bare.startswith(long)

    def is_linear(self) -> bool:
        """Whether it hands a gradient on."""
        is_scaling = self.is_one_of(_SCALING) and sum(end is not None for end in self.inputs) == 1
        return is_scaling or self.is_one_of(_LINEAR)

    def is_rounding(self) -> bool:
        """Whether its slope is 0 for every input."""
        rounds = any(number in ("floor", "trunc") for number in self.operation.numbers)
        return rounds or (self.is_flat and not self.is_one_of(_LINEAR))

    def leaves(self) -> set[Leaf]:
        """The leaves that it leads to, through known nodes."""
        todo: list[Node | Leaf | None] = [self]
        found: set[Leaf] = set()
        seen: set[int] = set()
        while todo:
            end = todo.pop()
            if isinstance(end, Leaf):
                found.add(end)
            elif end is not None and id(end) not in seen:
                seen.add(id(end))
                todo += end.inputs
        return found


@dataclass(slots=True, eq=False)
class Suspicion:
    """An operation at which a gradient may have turned into zeros, in one or more passes."""

    operation: Operation
    why: str  # "flat", "zero", "edge", "none", "cancels", "masked", "floor", "units", "entries"
    node: str = ""  # the autograd node, by its name
    leaves: set[Leaf] = field(default_factory=set)  # behind it
    at_output: bool = False  # no parameter between it and the loss
    share: float = 1.0


class Reading:
    """One backward pass, and who gave what to whom in it."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self._consumers: dict[int, list[Node]] | None = None

    def suspicions(self) -> Iterator[Suspicion]:
        """The operations at which a gradient may have turned into zeros."""
        for node in self.nodes:
            operation = node.operation
            if operation.bad:
                continue  # what is zero there is so because of what was not finite
            if node.lost:
                why = "entries" if operation.by_entry else "units"
                why = "floor" if self._is_term_of_loss(node) else why
                yield Suspicion(operation, why, node.name, set(), self._is_output(node), node.lost)
            elif node.came is SOME and (why := self._why(node)):
                leaves = node.leaves()
                if why == "none":  # then nothing is sent on, not even zeros
                    for leaf in leaves:
                        leaf.hungry = True
                at_output = node.is_flat and self._is_output(node)
                yield Suspicion(operation, why, node.name, leaves, at_output)
            elif node.came is ZERO and node.given.count(SOME) > 1:
                # What its consumers send is not zero, and adds up to zero: the last is named.
                giving = (other for other in self._consumed_by(node) if other.gives(node) is SOME)
                last = max(giving, key=lambda other: other.operation.order)
                yield Suspicion(last.operation, "cancels", last.name, node.leaves())

    def _why(self, node: Node) -> str:
        """Why all that leaves is zero, or "" if it is not."""
        left = {state for _, state in node.edges()}
        if left == {NONE}:
            return "none" if node.name.endswith("Backward") else ""
        operation = node.operation
        if ZERO in left and SOME in left and BAD not in left:  # towards one of its inputs
            # A sum, or torch.cat, hands each input its own part, which may be zeros already.
            if node.is_one_of(_CHOOSING + _LINEAR):
                return ""
            # A factor of 0 explains zeros towards the other one; towards both they are for ever.
            is_explained = operation.zero_factor or any(map(_is_zero, operation.inputs))
            return "" if is_explained and node.left.count(ZERO) == 1 else "edge"
        if not left or not left <= {NONE, ZERO}:
            return ""
        if node.is_rounding():
            return "" if self._meets_itself(node) else "flat"
        if node.is_one_of(_FLOORS) and not operation.half and self._is_term_of_loss(node):
            return "floor"
        if operation.masked == "one":
            return ""  # a weight that is switched off on purpose
        return "masked" if operation.masked or node.is_one_of(_CHOOSING) else "zero"

    def _consumed_by(self, node: Node) -> list[Node]:
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
            for other in self._consumed_by(below):
                if id(other) not in seen and other.gives(below) is SOME:
                    seen.add(id(other))
                    yield other
                    todo.append(other)

    def _is_term_of_loss(self, node: Node) -> bool:
        """Whether nothing but sums, means and choices lies between it and the loss."""
        return all(other.is_linear() for other in self._above(node))

    def _is_output(self, node: Node) -> bool:
        """Whether no layer lies between it and the loss, frozen or not."""
        return not any(
            other.is_one_of(_LAYERS) or any(isinstance(end, Leaf) for end in other.inputs)
            for other in self._above(node)
        )

    def _meets_itself(self, node: Node) -> bool:
        """Whether it is subtracted from its own input, as in x - x.floor(): a fraction."""
        sums = (n for n in self._consumed_by(node) if n.is_one_of(("Sub", "Add", "Rsub")))
        return any(end is node.inputs[0] for other in sums for end in other.inputs)


def _is_zero(reference: Any) -> bool:
    tensor = reference()
    return tensor is not None and not tensor.is_sparse and not bool(tensor.detach().any())
