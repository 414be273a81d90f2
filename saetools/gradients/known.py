"""What is known of a tensor, also of one that is seen for the first time."""

import torch
from torch import Tensor, nn

from saetools.gradients.finite import came_bad
from saetools.gradients.frames import COMPILED, Place, find_caller
from saetools.gradients.leaves import Leaves
from saetools.gradients.nodes import Graph, nodes_behind
from saetools.gradients.numbers import Numbers
from saetools.gradients.tensors import State, grad_fn_of, has_slope, is_leaf, state_of
from saetools.gradients.values import Operation, Value, Values


class Known:
    """A table of tensors that meets those that come from elsewhere."""

    def __init__(self, leaves: Leaves, graph: Graph, numbers: Numbers) -> None:
        self.values = Values()
        self.leaves, self.graph, self.numbers = leaves, graph, numbers

    def value(self, tensor: Tensor, order: int) -> Value:
        """What is known of it, before operation number `order`."""
        value = self.values.get(tensor)
        if value is None or (value.function is not None and tensor.requires_grad):
            place = None if value is None else value.function
            value = self._meet(tensor, place, order)
            self.values.set(tensor, value)
        return value

    def _meet(self, tensor: Tensor, function: Place | None, order: int) -> Value:
        state = state_of(tensor) if has_slope(tensor) else State.SOME
        value = Value(is_zero=state is State.ZERO)
        if state is State.BAD:
            value.bad = came_bad(tensor, self.leaves)
        if not tensor.requires_grad:
            value.take(self.numbers.inside(tensor))
        elif is_leaf(tensor):
            leaf = self.leaves.meet(tensor)
            value.leaves, value.pure = leaf.bit, isinstance(tensor, nn.Parameter)
        else:
            value.leaves = self._leaves_behind(tensor)
            self._adopt(tensor, function, order)
        value.origin = value.leaves
        return value

    def _leaves_behind(self, tensor: Tensor) -> int:
        """The leaves of a graph that was not seen in the making, one bit each."""
        nodes = nodes_behind([grad_fn_of(tensor)])
        leaves = [self.leaves.meet(node.variable) for node in nodes if hasattr(node, "variable")]
        return sum({leaf.bit for leaf in leaves})

    def _adopt(self, tensor: Tensor, function: Place | None, order: int) -> None:
        """Watch the node of a custom autograd Function, which no call of torch's has made."""
        node = grad_fn_of(tensor)
        if "CompiledFunction" in type(node).__name__:
            raise RuntimeError(COMPILED)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            name = type(node).__name__.removesuffix("Backward")
            place = function or find_caller().place
            operation = Operation(order, f"{name}.apply", "apply", place)
            edges = [edge for edge, _ in grad_fn_of(tensor).next_functions]
            self.graph.watch(operation, edges, [tensor])
