"""The autograd nodes behind each operation, and what goes through them in a backward pass."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from saetools.gradients.leaves import Leaf, Leaves
from saetools.gradients.looking import Looking
from saetools.gradients.tensors import State, grad_fn_of, is_wrapped, state_of
from saetools.gradients.values import Operation

SOME, ZERO, BAD, NONE, EMPTY = State.SOME, State.ZERO, State.BAD, State.NONE, State.EMPTY


class Node:
    """What is known of one autograd node: its operation, and the last backward pass through it."""

    __slots__ = (
        "came",
        "given",
        "inputs",
        "is_flat",
        "left",
        "lost",
        "name",
        "number",
        "operation",
    )

    def __init__(self, operation: Operation, name: str, is_flat: bool) -> None:
        self.operation = operation
        self.name = name
        self.is_flat = is_flat  # it needs nothing to know its slope: where that is 0, it always is
        self.inputs: list[Node | Leaf | None] = []  # one an edge, towards the leaves
        self.number = -1  # of the backward pass that the rest is of
        self.given: list[State] = []  # what each consumer gave
        self.came = NONE
        self.left: list[State] = []  # one an edge
        self.lost = 0.0  # share of the units or entries at which a gradient came and none left


class Pass:
    """One backward pass: the nodes that it went through, from the loss to the leaves."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.nodes: list[Node] = []


class Graph:
    """Watches the nodes. It holds none of them: their hooks hold what is known of them."""

    def __init__(
        self, leaves: Leaves, see: Callable[[Node, Any, Any], None], failures: list[str]
    ) -> None:
        self.failures = failures
        self.leaves = leaves
        self.see = see  # is told of each node that a gradient went through
        self.now: Pass | None = None
        self._passes = 0
        self._key = f"saetools {id(self)}"

    def known(self, node: Any) -> Node | None:
        """What is known of an autograd node, or None."""
        found: Node | None = node.metadata.get(self._key)
        return found

    def watch(self, operation: Operation, before: Sequence[Any], outputs: Sequence[Tensor]) -> None:
        """Hook the nodes that an operation made, back to those of its inputs.

        On the node, not on the tensor: a tensor cannot tell one of its consumers from another.
        """
        if any(map(is_wrapped, outputs)):
            return
        todo = [node for node in map(grad_fn_of, outputs) if self._is_new(node, before)]
        new: list[tuple[Any, Node]] = []
        while todo:
            node = todo.pop()
            if self.known(node) is not None:
                continue
            known = Node(operation, node.name(), _saves_nothing(node))
            node.metadata[self._key] = known
            node.register_hook(self._hook(known))
            new.append((node, known))
            todo += [edge for edge, _ in node.next_functions if self._is_new(edge, before)]
        for node, known in new:
            known.inputs = [self._end(edge) for edge, _ in node.next_functions]

    def _is_new(self, node: Any, before: Sequence[Any]) -> bool:
        if node is None or hasattr(node, "variable") or node in before:
            return False
        return self.known(node) is None

    def _end(self, node: Any) -> Node | Leaf | None:
        if node is None:
            return None
        if hasattr(node, "variable"):  # it accumulates the gradient of a leaf
            return self.leaves.meet(node.variable)
        return self.known(node)

    def _hook(self, known: Node) -> Callable[[Any, Any], None]:
        def look(left: tuple[Tensor | None, ...], came: tuple[Tensor | None, ...]) -> None:
            now = self.now
            if now is None:
                return
            with Looking(self.failures):
                read(now, left, came)

        def read(now: Pass, left: tuple[Tensor | None, ...], came: Any) -> None:
            given = known.given if known.number == now.number else []
            known.came = given[0] if len(given) == 1 else max(map(state_of, came))
            known.left = list(map(state_of, left))
            known.number = now.number
            self.see(known, left, came)
            now.nodes.append(known)
            for end, state in zip(known.inputs, known.left, strict=False):
                if isinstance(end, Node):
                    if end.number != now.number:
                        end.number, end.given = now.number, []
                    end.given.append(state)

        return look

    def begin(self) -> Pass:
        """A backward pass begins."""
        self._passes += 1
        self.now = Pass(self._passes)
        return self.now

    def end(self) -> None:
        """It is over."""
        self.now = None


_saving: dict[type, bool] = {}


def _saves_nothing(node: Any) -> bool:
    """Whether the operation keeps none of its values for the backward pass."""
    kind = type(node)
    if kind not in _saving:
        _saving[kind] = not any(name.startswith("_saved_") for name in dir(node))
    return _saving[kind]


def nodes_behind(start: Sequence[Any]) -> Iterator[Any]:
    """The autograd nodes from `start` towards the leaves, each once."""
    todo, seen = list(start), set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        todo += [following for following, _ in node.next_functions]


def leaves_behind(node: Node) -> Iterator[Leaf]:
    """The leaves that a known node leads to, through known nodes."""
    todo: list[Node | Leaf | None] = [node]
    seen: set[int] = set()
    while todo:
        end = todo.pop()
        if isinstance(end, Leaf):
            yield end
        elif end is not None and id(end) not in seen:
            seen.add(id(end))
            todo += end.inputs
