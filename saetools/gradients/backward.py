"""Backward passes: what they reach, where they turn into zeros, where they stop being finite."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from saetools.gradients.frames import Place, users_place
from saetools.gradients.leaves import Leaf, Leaves
from saetools.gradients.nodes import BAD, SOME, Graph, Node, nodes_behind
from saetools.gradients.tensors import is_bad, is_leaf
from saetools.gradients.units import share_lost, share_of_entries_lost
from saetools.gradients.values import Cut, Operation, Value
from saetools.gradients.zeros import Reading, Suspicion

_Key = tuple[str, str, Place, str]


class Passes:
    """What is gathered over all backward passes in the block."""

    def __init__(self, leaves: Leaves, failures: list[str]) -> None:
        self.leaves = leaves
        self.graph = Graph(leaves, self._see_node, failures)
        self.places: list[Place] = []  # of the calls, the last one last
        self.calls = 0
        self.lost: set[Cut] = set()  # cuts whose value is a term of a loss
        self.every = 0  # sites anywhere in the value of a loss, one bit each
        self.without_graph = False  # a loss that does not require a gradient at all
        self.suspicions: dict[_Key, Suspicion] = {}
        self.bad_values: dict[Operation, None] = {}  # the first bad ones, that did harm
        self.bad_slopes: dict[Operation, float] = {}  # and the share of entries
        self.scaled = False  # by a GradScaler, which skips steps that are not finite
        self._all_pure = False
        self._hidden: list[tuple[Leaf, Any]] = []

    def begin(self, roots: Sequence[Tensor], values: Sequence[Value]) -> None:
        """A backward pass from these tensors, of which this is known."""
        self.calls += 1
        self.places = [users_place()]
        for root, value in zip(roots, values, strict=True):
            self.lost |= {cut for cut in value.lost if not cut.stopped}
            self.every |= value.every
            self.without_graph |= not root.requires_grad
            value.is_loss = True
            if value.bad and is_bad(root):
                self.bad_values |= dict.fromkeys(sorted(value.bad, key=lambda o: o.order)[:1])
            if is_leaf(root) and root.requires_grad:
                self.leaves.meet(root).reached = True
        self._find_reached([root.grad_fn for root in roots])
        self._all_pure = all(value.pure for value in values)
        self.graph.begin()

    def _find_reached(self, start: Sequence[Any]) -> None:
        is_hidden = False
        for node in nodes_behind(start):
            if hasattr(node, "variable"):
                self.leaves.meet(node.variable).reached = True
            elif "CheckpointFunction" in node.name():
                is_hidden = True
        # A reentrant checkpoint runs a backward pass of its own: its leaves show by their .grad.
        wanted = self.leaves.all() if is_hidden else []
        self._hidden = [(leaf, _grad_of(leaf)) for leaf in wanted if not leaf.reached]

    def end(self) -> None:
        """The pass is over: read it."""
        now = self.graph.now
        self.graph.end()
        for leaf, before in self._hidden:
            if _grad_of(leaf) != before:
                leaf.reached = leaf.fed = True
        self._hidden = []
        if now is None:
            return
        reading = Reading(now)
        reading.feed_leaves(self._all_pure)
        for suspicion in reading.suspicions():
            self._add(suspicion)

    def _add(self, suspicion: Suspicion) -> None:
        operation = suspicion.operation
        key = (suspicion.why, operation.op, operation.place, operation.layer)
        known = self.suspicions.setdefault(key, suspicion)
        known.leaves |= suspicion.leaves
        known.at_output |= suspicion.at_output
        if suspicion.share >= known.share:
            known.share, known.operation = suspicion.share, operation

    def _see_node(self, node: Node, left: Sequence[Tensor | None], came: Any) -> None:
        """A gradient went through a node: its values can be looked at now, and only now."""
        node.lost = 0.0
        operation = node.operation
        if BAD in node.left:
            if node.came is not BAD and not (self.scaled and operation.half):
                self._blame(operation, left)
        elif node.came is SOME and (operation.silence is not None or operation.by_entry):
            arrived, sent = _first(came), _first(left)
            if arrived is not None and sent is not None:
                if operation.by_entry:
                    node.lost = share_of_entries_lost(arrived, sent)
                elif operation.silence is not None:
                    node.lost = share_lost(operation.silence, arrived, sent)

    def _blame(self, operation: Operation, left: Sequence[Tensor | None]) -> None:
        if operation.bad:  # it met a value that was bad already
            first = min(operation.bad, key=lambda other: other.order)
            self.bad_values[first] = None
            return
        dense = [g for g in left if g is not None and not g.is_sparse and g.numel() > 0]
        wrong = [int((~g.isfinite()).sum()) / g.numel() for g in dense]
        self.bad_slopes[operation] = max(wrong, default=1.0) or 1.0

    def close(self) -> None:
        """The block is over; the hooks on a graph that lives on must not keep what was seen."""
        self.graph.now = None
        self.graph.see = _ignore


def _ignore(node: Node, left: Any, came: Any) -> None:
    del node, left, came


def _first(gradients: Sequence[Tensor | None]) -> Tensor | None:
    first = next((gradient for gradient in gradients if gradient is not None), None)
    return None if first is None or first.is_sparse else first.detach()


def _grad_of(leaf: Leaf) -> Any:
    tensor = leaf.reference()
    gradient = None if tensor is None else tensor.grad
    return None if gradient is None else (id(gradient), gradient._version)
