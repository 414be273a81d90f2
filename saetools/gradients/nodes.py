"""The autograd nodes behind each operation, and what goes through them in a backward pass."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from saetools.gradients.frames import Place, find_caller
from saetools.gradients.leaves import Leaf, Leaves
from saetools.gradients.tensors import State, grad_fn_of, is_bad, is_leaf, is_wrapped, state_of
from saetools.gradients.units import share_lost
from saetools.gradients.values import Cut, Operation, Value
from saetools.gradients.zeros import Node, Reading, Suspicion

_saving: dict[type, bool] = {}


class Passes:
    """What is gathered over all backward passes in the block.

    It holds no node: their hooks hold what is known of them.
    """

    def __init__(self, leaves: Leaves, looking: Callable[[], Any]) -> None:
        self.leaves, self._looking = leaves, looking
        self.place: Place | None = None  # of the last call
        self.calls = 0
        self.lost: set[Cut] = set()  # cuts whose value is a term of a loss
        self.every = 0  # sites anywhere in the value of a loss, one bit each
        self.without_graph = False  # a loss that does not require a gradient at all
        self.suspicions: dict[Any, Suspicion] = {}
        self.bad_values: dict[Operation, None] = {}  # the first bad ones, that did harm
        self.bad_slopes: dict[Operation, float] = {}  # and the share of entries
        self.scaled = False  # by a GradScaler, which skips steps that are not finite
        self._now: list[Node] | None = None  # the pass that is being made, from the loss on
        self.harmless: dict[Operation, None] = {}  # those of which no leaf heard
        self._pending: list[tuple[Operation, float]] = []  # what was not finite in this pass,
        self._is_harmed = False  # and whether it came to a leaf
        self._hidden: list[tuple[Leaf, Any]] = []
        self._key = f"saetools {id(self)}"

    def watch(self, operation: Operation, before: Sequence[Any], outputs: Sequence[Tensor]) -> None:
        """Hook the nodes that an operation made, back to those of its inputs.

        On the node, not on the tensor: a tensor cannot tell one of its consumers from another.
        """
        if any(map(is_wrapped, outputs)):
            return
        todo, new = list(map(grad_fn_of, outputs)), []
        while todo:
            node = todo.pop()
            is_end = node is None or hasattr(node, "variable") or node in before
            if is_end or self._key in node.metadata:
                continue
            kind = type(node)
            if kind not in _saving:
                _saving[kind] = any(name.startswith("_saved_") for name in dir(node))
            known = node.metadata[self._key] = Node(operation, node.name(), not _saving[kind])
            node.register_hook(self._hook(known))
            new.append((node, known))
            todo += [edge for edge, _ in node.next_functions]
        for node, known in new:
            known.inputs = [self._end(edge) for edge, _ in node.next_functions]

    def _end(self, node: Any) -> Node | Leaf | None:
        if hasattr(node, "variable"):  # it accumulates the gradient of a leaf
            return self.leaves.meet(node.variable)
        return None if node is None else node.metadata.get(self._key)

    def _hook(self, known: Node) -> Callable[[Any, Any], None]:
        def look(left: Sequence[Tensor | None], came: Sequence[Tensor | None]) -> None:
            if self._now is None:
                return
            with self._looking():
                given = known.given if known.number == self.calls else []
                known.came = given[0] if len(given) == 1 else max(map(state_of, came))
                known.left = list(map(state_of, left))
                known.number = self.calls
                self._see_node(known, left, came)
                self._now.append(known)
                for end, state in zip(known.inputs, known.left, strict=False):
                    if isinstance(end, Node):
                        if end.number != self.calls:
                            end.number, end.given = self.calls, []
                        end.given.append(state)
                        continue
                    self._is_harmed |= state is State.BAD
                    if end is not None:
                        end.fed |= state in (State.SOME, State.BAD)
                        end.hungry |= state is State.ZERO

        return look

    def _see_node(self, node: Node, left: Sequence[Any], came: Sequence[Any]) -> None:
        """A gradient went through a node: its values can be looked at now, and only now."""
        node.lost = 0.0
        operation = node.operation
        if State.BAD in node.left:
            if node.came is State.BAD or (self.scaled and operation.half):
                return
            dense = [g for g in left if g is not None and not g.is_sparse and g.numel() > 0]
            wrong = [int((~g.isfinite()).sum()) / g.numel() for g in dense]
            self._pending.append((operation, max(wrong, default=1.0) or 1.0))
        elif node.came is State.SOME and (operation.silence is not None or operation.by_entry):
            node.lost = share_lost(operation.silence, operation.by_entry, came, left)

    def begin(self, roots: Sequence[Tensor], values: Sequence[Value]) -> None:
        """A backward pass from these tensors, of which this is known."""
        self.calls += 1
        self.place, self._now = find_caller().place, []
        for root, value in zip(roots, values, strict=True):
            self.lost |= {cut for cut in value.lost if not cut.stopped}
            self.every |= value.every
            self.without_graph |= not root.requires_grad
            value.is_loss = True
            if value.bad and is_bad(root):
                self.bad_values[min(value.bad, key=lambda o: o.order)] = None
            if is_leaf(root) and root.requires_grad:
                self.leaves.meet(root).reached = True
        self._pending, self._is_harmed = [], False
        is_hidden = False
        for node in nodes_behind([root.grad_fn for root in roots]):
            is_hidden |= "CheckpointFunction" in node.name()
            if hasattr(node, "variable"):
                self.leaves.meet(node.variable).reached = True
        # A reentrant checkpoint runs a backward pass of its own: its leaves show by their .grad.
        hidden = [leaf for leaf in self.leaves.all() if is_hidden and not leaf.reached]
        self._hidden = [(leaf, _grad_of(leaf)) for leaf in hidden]

    def end(self) -> None:
        """The pass is over: read it."""
        reading, self._now = Reading(self._now or []), None
        for leaf, before in self._hidden:
            if _grad_of(leaf) != before:
                leaf.reached = leaf.fed = True
        self._hidden = []
        for operation, share in self._pending:
            # It may have met a value that was bad already.
            first = min(operation.bad, key=lambda other: other.order) if operation.bad else None
            if not self._is_harmed:
                self.harmless[first or operation] = None
            elif first is not None:
                self.bad_values[first] = None
            else:
                self.bad_slopes[operation] = share
        for suspicion in reading.suspicions():
            operation = suspicion.operation
            key = (suspicion.why, operation.op, operation.place, operation.layer)
            known = self.suspicions.setdefault(key, suspicion)
            known.leaves |= suspicion.leaves
            known.at_output |= suspicion.at_output
            if suspicion.share >= known.share:
                known.share, known.operation = suspicion.share, operation


def nodes_behind(start: Sequence[Any]) -> Iterator[Any]:
    """The autograd nodes from `start` towards the leaves, each once."""
    todo, seen = list(start), set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo += [following for following, _ in node.next_functions]


def _grad_of(leaf: Leaf) -> Any:
    tensor = leaf.reference()
    gradient = None if tensor is None else tensor.grad
    return None if gradient is None else (id(gradient), gradient._version)
