"""Calls that are no operations and move values all the same."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saetools.gradients.flow import NO_CUTS
from saetools.gradients.frames import Place, called_in, find_caller
from saetools.gradients.roles import Call
from saetools.gradients.tensors import is_leaf, needs_gradient, tensors_in
from saetools.gradients.values import Cut, Operation, Value
from saetools.gradients.watch import Watch


class Special:
    """Sees TorchScript, nn.Parameter(tensor), weight.data = ..., collectives, and .grad."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.orphans: dict[Place, Operation | None] = {}  # .grad was read of what is no leaf

    def see_seam(self, op: str, arguments: tuple[Any, ...], result: Any) -> None:
        """A call that no mode can see: `op` was given `arguments`, and returned `result`."""
        inputs, outputs = tensors_in(arguments), tensors_in(result)
        if not inputs or not outputs:
            return
        if isinstance(outputs[0], nn.Parameter) and outputs[0].requires_grad:
            self.watch.leaves.meet(outputs[0]).place = find_caller().place
        in_weights = op in ("torch.nn.Parameter", "torch.autograd.Variable")
        if in_weights and is_leaf(outputs[0]):
            self._copied(op, inputs[0], outputs[0])
            return
        values = [self.watch.value(tensor) for tensor in inputs]
        required = list(map(needs_gradient, inputs))
        carries = any(map(needs_gradient, outputs))
        out = self.watch.flow.join(op, inputs, required, values, carries, False)
        self.watch.operations += 1
        place = find_caller().place
        if any(required) and not carries:
            out.lost = NO_CUTS
            self._cut(op, place, inputs, values, out)
        for tensor in outputs:
            self.watch.values.set(tensor, out)
        if carries and torch.is_grad_enabled():
            operation = Operation(self.watch.operations, op, "", place)
            nodes = [tensor.grad_fn for tensor in inputs]
            self.watch.passes.graph.watch(operation, nodes, outputs)

    def _cut(
        self, op: str, place: Place, inputs: Sequence[Tensor], values: Sequence[Value], out: Value
    ) -> Cut:
        site = self.watch.sites.get((op, place), op, place)
        for tensor, value in zip(inputs, values, strict=True):
            if tensor.requires_grad:
                site.behind |= value.leaves
        site.order = self.watch.operations
        cut = Cut(site, explicit=False)
        self.watch.flow.cut(cut, out)
        return cut

    def _copied(self, op: str, source: Tensor, leaf: Tensor) -> None:
        """A leaf was given the values of `source`, without their history."""
        value = self.watch.value(source)
        known = self.watch.value(leaf)
        known.every |= value.every
        known.origin |= value.origin
        known.lost = frozenset(cut for cut in value.lost if not cut.explicit)
        if source.requires_grad and not is_leaf(source):
            behind = known.leaves
            cut = self._cut(op, find_caller().place, [source], [value], known)
            known.leaves, cut.in_weights = behind, True
        elif known.origin & ~known.leaves and leaf.requires_grad:
            self.watch.leaves.meet(leaf).by_hand = True

    def see_set_data(self, call: Call, tensor: Tensor, source: Any) -> None:
        """tensor.data = source"""
        if isinstance(source, Tensor) and is_leaf(tensor):
            caller = find_caller()
            through = caller.through
            op = call.op if through is None else through.co_qualname
            self._copied(op, source, tensor)

    def see_collective(self, call: Call, args: Any, kwargs: dict[str, Any]) -> None:
        """A collective of torch.distributed has filled all of its tensors but the last."""
        tensors = tensors_in((args, kwargs))
        needed = [t for t in tensors if t.requires_grad and not is_leaf(t)]
        filled = [t for t in tensors if all(t is not other for other in needed)]
        if not needed or not filled:
            return
        values = [self.watch.value(tensor) for tensor in needed]
        out = Value(origin=values[0].origin)
        self._cut(call.op, find_caller().place, needed, values, out)
        for tensor in filled:
            self.watch.values.set(tensor, out)

    def see_grad(self, tensor: Tensor, gradient: Any) -> None:
        """The .grad of a tensor was read."""
        caller = find_caller()
        if not caller.direct:
            return
        if gradient is None:
            is_orphan = tensor.requires_grad and not is_leaf(tensor) and not tensor.retains_grad
            if is_orphan and self.watch.passes.calls:
                made_by = self.watch.value(tensor).made_by
                self.orphans.setdefault(caller.place, made_by)
        elif not gradient.requires_grad:
            behind = self.watch.value(tensor).leaves
            out = Value()
            self.watch.cut_quietly("Tensor.grad", caller.place, behind, out)
            self.watch.values.set(gradient, out)

    def see_derivatives(
        self, func: Any, results: Sequence[Tensor], roots: Sequence[Tensor]
    ) -> None:
        """torch.autograd.grad has returned gradients: with a graph of their own, or without."""
        if func is not torch.autograd.grad:
            return
        caller = find_caller()
        behind = 0
        for root in roots:
            behind |= self.watch.value(root).leaves
        for gradient in results:
            self.watch.operations += 1
            if gradient.requires_grad:
                value = Value(leaves=behind, origin=behind)
                self.watch.values.set(gradient, value)
                self._watch_derivative(caller.place, gradient)
                continue
            through = caller.through
            is_named = through is not None and called_in("autograd/functional")
            op = through.co_qualname if is_named and through else "torch.autograd.grad"
            value = Value(origin=behind)
            self.watch.cut_quietly(op, caller.place, behind, value)
            self.watch.values.set(gradient, value)

    def _watch_derivative(self, place: Place, gradient: Tensor) -> None:
        operation = Operation(self.watch.operations, "torch.autograd.grad", "grad", place)
        self.watch.passes.graph.watch(operation, [], [gradient])
