"""What the tracer makes of each operation: which values it joins, and whether it cuts them."""

import weakref
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from saetools.gradients.calls import Call, Role
from saetools.gradients.cuts import Sites
from saetools.gradients.finite import Finite, came_bad
from saetools.gradients.flow import NO_CUTS, PRODUCTS, Flow
from saetools.gradients.frames import COMPILED, NOWHERE, Place, find_caller
from saetools.gradients.leaves import Leaves
from saetools.gradients.nodes import Passes, nodes_behind
from saetools.gradients.tensors import (
    State,
    flatten,
    grad_fn_of,
    has_slope,
    is_leaf,
    needs_gradient,
    state_of,
    tensors_in,
)
from saetools.gradients.units import Silences
from saetools.gradients.values import Operation, Seen, Value

_TAKE_NUMBERS = {"tensor", "as_tensor", "new_tensor", "full"}
_SCALINGS = {"mul", "__rmul__", "mul_", "multiply", "div", "divide", "floor_divide"}
_HALVES = {torch.float16, torch.bfloat16}
_requires_grad = attrgetter("requires_grad")


class Watch:
    """Follows values from operation to operation."""

    def __init__(self, model: nn.Module | None, leaves: Leaves, passes: Passes) -> None:
        self.leaves, self.passes = leaves, passes
        self.flow = Flow()
        self.sites = Sites(model, self.flow)
        self.finite = Finite(leaves)
        self.values: Any = WeakTensorKeyDictionary()  # tensor -> Value; keeps nothing alive
        self.silences = Silences()
        self.operations = 0

    def value(self, tensor: Tensor) -> Value:
        """What is known of a tensor, also of one that is seen for the first time."""
        value: Value | None = self.values.get(tensor)
        if value is None or (value.function is not None and tensor.requires_grad):
            value = self._meet(tensor, None if value is None else value.function)
            self.values[tensor] = value
        return value

    def _meet(self, tensor: Tensor, function: Place | None) -> Value:
        state = state_of(tensor) if has_slope(tensor) else State.SOME
        value = Value(is_zero=state is State.ZERO)
        if state is State.BAD:
            value.bad = came_bad(tensor, self.leaves)
        if tensor.requires_grad and is_leaf(tensor):
            value.leaves = self.leaves.meet(tensor).bit
        elif tensor.requires_grad:  # a graph that was not seen in the making
            node = grad_fn_of(tensor)
            ends = [end.variable for end in nodes_behind([node]) if hasattr(end, "variable")]
            value.leaves = sum({self.leaves.meet(end).bit for end in ends})
            self._adopt(tensor, node, function)
        value.origin = value.leaves
        return value

    def _adopt(self, tensor: Tensor, node: Any, function: Place | None) -> None:
        """Watch the node of a custom autograd Function, which no call of torch's has made."""
        if "CompiledFunction" in type(node).__name__:
            raise RuntimeError(COMPILED)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            name = type(node).__name__.removesuffix("Backward")
            place = function or find_caller().place
            operation = Operation(self.operations, f"{name}.apply", "apply", place)
            edges = [edge for edge, _ in node.next_functions]
            self.passes.watch(operation, edges, [tensor])

    def look_before(
        self, call: Call, inputs: list[Tensor], args: Any, kwargs: dict[str, Any]
    ) -> Seen:
        """What is known of the inputs, which the operation may change in place."""
        is_transformed = torch._C._functorch.peek_interpreter_stack() is not None
        required = list(map(needs_gradient if is_transformed else _requires_grad, inputs))
        seen = Seen(call, inputs, (args, kwargs), required, list(map(self.value, inputs)), [])
        if any(required):
            seen.nodes = [grad_fn_of(tensor) for tensor in inputs]
            if torch.is_grad_enabled():
                seen.silence, seen.by_entry = self.silences.look(call.name, inputs, args, kwargs)
        return seen

    def see(self, seen: Seen, result: Any) -> None:
        """Look at an operation that has been run."""
        call, inputs = seen.call, seen.inputs
        outputs = tensors_in(result)
        if not outputs and call.in_place and seen.arguments[0]:
            outputs = tensors_in(seen.arguments[0][0])
        if not outputs and call.role is not Role.NUMBER:
            return
        self.operations += 1
        may_write = call.in_place and call.name != "detach_"
        written = [tensor for tensor in outputs if may_write and is_leaf(tensor)]
        computed = [tensor for tensor in outputs if not is_leaf(tensor)] if written else outputs
        requires = any(seen.required)
        seen.carries = any(map(needs_gradient if requires else _requires_grad, computed))
        if call.name in _TAKE_NUMBERS and requires:
            seen.carries = False  # with requires_grad=True it makes a leaf
        takes_numbers = bool(inputs) or call.name in _TAKE_NUMBERS
        numbers = self.sites.numbers.among(seen.arguments) if takes_numbers else NO_CUTS
        is_one = bool(outputs) and outputs[0].numel() == 1
        out = self.flow.join(seen, is_one, numbers)
        if not torch.is_grad_enabled():  # inside a custom Function, perhaps
            out.function = next((v.function for v in seen.values if v.function), None)
        operation = Operation(self.operations, call.op, call.name, NOWHERE)
        if requires or seen.carries:
            self._note(operation, seen, out, outputs)
        is_number = call.role is Role.NUMBER and out.origin
        if not seen.carries and (requires or is_number) and not _writes_itself(seen, written):
            self.sites.see_cut(seen, out, result, self.operations)
        if out.every:
            self.sites.score(out)
        self.finite.see(operation, seen, outputs, out)
        for tensor in written:
            self.see_write(tensor, out)
        for tensor in outputs:
            self._know(tensor, out, seen, operation)
        if seen.carries and torch.is_grad_enabled():
            for tensor, value in seen.flowing():
                if value.leaves and is_leaf(tensor):
                    leaf = self.leaves.meet(tensor)
                    leaf.used, leaf.place = True, leaf.place or operation.place
            self.passes.watch(operation, seen.nodes, outputs)

    def _note(
        self, operation: Operation, seen: Seen, out: Value, outputs: Sequence[Tensor]
    ) -> None:
        """Note what the verdict, and the advice, will ask of the operation."""
        caller = find_caller()
        operation.place, operation.layer = caller.place, self.sites.layer(caller)
        if caller.through is not None and caller.through.co_filename.endswith("grad_scaler.py"):
            self.passes.scaled = True
        out.made_by = operation
        operation.silence, operation.by_entry = seen.silence, seen.by_entry
        has_bias = len(seen.inputs) == 3 and not operation.name.startswith(("add", "badd"))
        factors = slice(2) if has_bias else slice(None)  # linear(x, weight, bias) and its like
        operation.inputs = tuple(map(weakref.ref, seen.inputs[factors]))
        operation.zero_factor = any(value.is_zero for value in seen.values[factors])
        operation.half = not _HALVES.isdisjoint([t.dtype for t in (*seen.inputs, *outputs)])
        name = operation.name
        if name in ("softmax", "log_softmax", "cross_entropy") and seen.inputs:
            shape = seen.inputs[0].shape
            operation.one_entry = 1 in shape[1:] or shape[:1] == (1,)
        if name in _SCALINGS or name in PRODUCTS:
            for tensor, needs, value in zip(seen.inputs, seen.required, seen.values, strict=True):
                is_zero = value.is_zero or (tensor.dtype == torch.bool and not bool(tensor.any()))
                if is_zero and not needs:
                    operation.masked = "one" if tensor.numel() == 1 else "mask"
        if name in _SCALINGS:
            items = flatten(seen.arguments)
            operation.numbers = tuple(i for i in items if isinstance(i, int | float | str))
            operation.masked = "one" if 0 in operation.numbers else operation.masked

    def see_write(self, tensor: Tensor, out: Value) -> None:
        """Values were written into a leaf, or into its .data."""
        leaf = self.leaves.meet(tensor)
        if out.origin & ~leaf.bit:  # from another parameter, as into the copy of a teacher
            leaf.by_hand = True
        for cut in out.lost:
            cut.in_weights = cut.in_weights or not cut.explicit

    def _know(self, tensor: Tensor, out: Value, seen: Seen, operation: Operation) -> None:
        value = out
        if seen.carries and any(seen.required) and not has_slope(tensor):
            # an index beside a value, as max() returns it
            value = Value(operation, every=out.every, origin=out.origin)
            place = operation.place
            self.sites.cut_quietly(operation.op, place, self.operations, out.leaves, value)
        elif seen.call.in_place and is_leaf(tensor) and tensor.requires_grad:
            known = self.value(tensor)
            value = Value(operation, out.lost, out.every | known.every, known.leaves)
            value.bad = out.bad
            value.origin = known.origin | out.origin
        self.values[tensor] = value


def _writes_itself(seen: Seen, written: Sequence[Tensor]) -> bool:
    """Whether nothing is written into leaves but what is computed from them, as in clamp_()."""
    return bool(written) and all(
        any(tensor is leaf for leaf in written) for tensor, _ in seen.flowing()
    )
