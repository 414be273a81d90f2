"""Calls that are no operations and move values all the same."""

from typing import Any

import torch
from torch import Tensor, nn

from saetools.gradients.calls import PARAMETER, Call
from saetools.gradients.flow import NO_CUTS
from saetools.gradients.frames import Place, called_in, find_caller
from saetools.gradients.sites import behind_of
from saetools.gradients.tensors import is_leaf, needs_gradient, tensors_in
from saetools.gradients.values import Cut, Operation, Seen, Value
from saetools.gradients.watch import Watch


class Special:
    """Sees TorchScript, nn.Parameter(tensor), weight.data = ..., collectives, and .grad."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.orphans: dict[Place, Operation | None] = {}  # .grad was read of what is no leaf

    def see_seam(self, op: str, call: Call, arguments: Any, result: Any) -> None:
        """A call that no mode can see: `op` was given `arguments`, and returned `result`."""
        watch, inputs, outputs = self.watch, tensors_in(arguments), tensors_in(result)
        if not inputs or not outputs:
            return
        place = find_caller().place
        if isinstance(outputs[0], nn.Parameter) and outputs[0].requires_grad:
            watch.leaves.meet(outputs[0]).place = place
        if op in (PARAMETER, "torch.autograd.Variable") and is_leaf(outputs[0]):
            self._copied(op, inputs[0], outputs[0])
            return
        required, values = list(map(needs_gradient, inputs)), list(map(watch.value, inputs))
        nodes = [tensor.grad_fn for tensor in inputs]
        seen = Seen(call, inputs, arguments, required, values, nodes)
        seen.carries = any(map(needs_gradient, outputs))
        out = watch.flow.join(seen)
        watch.operations += 1
        if any(required) and not seen.carries:
            out.lost = NO_CUTS
            self._cut(op, inputs, out)
        for tensor in outputs:
            watch.values.set(tensor, out)
        if seen.carries and torch.is_grad_enabled():
            watch.passes.watch(Operation(watch.operations, op, "", place), nodes, outputs)

    def _cut(self, op: str, inputs: list[Tensor], out: Value) -> Cut:
        watch = self.watch
        behind = behind_of(list(map(watch.value, inputs)), inputs)
        site = watch.sites.get(op, find_caller().place)
        return watch.sites.cut(site, watch.operations, behind, out)

    def _copied(self, op: str, source: Tensor, leaf: Tensor) -> None:
        """A leaf was given the values of `source`, without their history."""
        value, known = self.watch.value(source), self.watch.value(leaf)
        known.every |= value.every
        known.origin |= value.origin
        known.lost = frozenset(cut for cut in value.lost if not cut.explicit)
        if source.requires_grad and not is_leaf(source):
            behind = known.leaves
            self._cut(op, [source], known).in_weights = True
            known.leaves = behind
        elif known.origin & ~known.leaves and leaf.requires_grad:
            self.watch.leaves.meet(leaf).by_hand = True

    def see_set_data(self, call: Call, tensor: Tensor, source: Any) -> None:
        """tensor.data = source"""
        if isinstance(source, Tensor) and is_leaf(tensor):
            through = find_caller().through
            self._copied(call.op if through is None else through.co_qualname, source, tensor)

    def see_collective(self, call: Call, arguments: Any) -> None:
        """A collective of torch.distributed has filled the tensors that carry no gradient."""
        tensors = tensors_in(arguments)
        needed = [t for t in tensors if t.requires_grad and not is_leaf(t)]
        filled = [t for t in tensors if all(t is not other for other in needed)]
        if needed and filled:
            out = Value(origin=self.watch.value(needed[0]).origin)
            self._cut(call.op, needed, out)
            for tensor in filled:
                self.watch.values.set(tensor, out)

    def see_grad(self, tensor: Tensor, gradient: Any) -> None:
        """The .grad of a tensor was read."""
        caller = find_caller()
        if caller.outer is not None:
            return
        value = self.watch.value(tensor)
        if gradient is None:
            is_orphan = tensor.requires_grad and not is_leaf(tensor) and not tensor.retains_grad
            if is_orphan and self.watch.passes.calls:
                self.orphans.setdefault(caller.place, value.made_by)
        elif not gradient.requires_grad:
            self._cut_quietly("Tensor.grad", caller.place, value.leaves, gradient, Value())

    def _cut_quietly(
        self, op: str, place: Place, behind: int, gradient: Tensor, value: Value
    ) -> None:
        self.watch.sites.cut_quietly(op, place, self.watch.operations, behind, value)
        self.watch.values.set(gradient, value)

    def see_derivatives(self, results: list[Tensor], roots: list[Tensor]) -> None:
        """torch.autograd.grad has returned gradients: with a graph of their own, or without."""
        caller, watch, op = find_caller(), self.watch, "torch.autograd.grad"
        if caller.through is not None and called_in("autograd/functional"):
            op = caller.through.co_qualname
        behind = behind_of(list(map(watch.value, roots)), roots)
        for gradient in results:
            watch.operations += 1
            if not gradient.requires_grad:
                self._cut_quietly(op, caller.place, behind, gradient, Value(origin=behind))
                continue
            watch.values.set(gradient, Value(leaves=behind, origin=behind))
            operation = Operation(watch.operations, op, "grad", caller.place)
            watch.passes.watch(operation, [], [gradient])
