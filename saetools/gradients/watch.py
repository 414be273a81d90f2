"""What the tracer makes of each operation: which values it joins, and whether it cuts them."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from saetools.gradients.backward import Passes
from saetools.gradients.before import Before, Silences
from saetools.gradients.blocks import Block, inference_block
from saetools.gradients.factors import note_factors
from saetools.gradients.finite import Finite
from saetools.gradients.flow import Flow
from saetools.gradients.frames import NOWHERE, Place, find_caller, function_around
from saetools.gradients.known import Known
from saetools.gradients.leaves import Leaves
from saetools.gradients.numbers import Numbers
from saetools.gradients.roles import Call, Role, is_in_place
from saetools.gradients.sites import Sites
from saetools.gradients.tensors import (
    grad_fn_of,
    has_slope,
    is_bad,
    is_leaf,
    is_transformed,
    needs_gradient,
    tensors_in,
)
from saetools.gradients.values import Cut, Operation, Value

_TAKE_NUMBERS = {"tensor", "as_tensor", "new_tensor", "full"}


_requires_grad = attrgetter("requires_grad")


def _writes_itself(
    inputs: Sequence[Tensor], required: Sequence[bool], written: Sequence[Tensor]
) -> bool:
    """Whether nothing is written into leaves but what is computed from them, as in clamp_()."""
    return bool(written) and all(
        any(tensor is leaf for leaf in written)
        for tensor, needs in zip(inputs, required, strict=True)
        if needs
    )


class Watch:
    """Follows values from operation to operation."""

    def __init__(self, model: nn.Module | None, leaves: Leaves, passes: Passes) -> None:
        self.flow = Flow()
        self.numbers = Numbers()
        self.sites = Sites(model)
        self.finite = Finite(leaves)
        self.known = Known(leaves, passes.graph, self.numbers)
        self.values = self.known.values
        self.leaves = leaves
        self.passes = passes
        self.block: Block | None = None  # that switched gradients off
        self.operations = 0
        self.silences = Silences()

    def value(self, tensor: Tensor) -> Value:
        """What is known of a tensor, also of one that is seen for the first time."""
        return self.known.value(tensor, self.operations)

    def look_before(
        self, call: Call, inputs: Sequence[Tensor], args: Any, kwargs: dict[str, Any]
    ) -> Before:
        """What is known of the inputs."""
        needs = needs_gradient if is_transformed() else _requires_grad
        required = [needs(tensor) for tensor in inputs]
        values = [self.value(tensor) for tensor in inputs]
        was_bad = is_in_place(call.name) and any(map(is_bad, inputs))
        nodes: list[Any] = []
        silence, by_entry = None, False
        if any(required):
            nodes = [grad_fn_of(tensor) for tensor in inputs]
            if torch.is_grad_enabled():
                silence, by_entry = self.silences.look(call.name, inputs, args, kwargs)
        return Before(required, values, nodes, was_bad, silence, by_entry)

    def see(
        self,
        call: Call,
        before: Before,
        inputs: Sequence[Tensor],
        args: Any,
        kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        """Look at an operation that has been run."""
        outputs = tensors_in(result)
        if not outputs and is_in_place(call.name) and args:
            outputs = tensors_in(args[0])
        if not outputs and call.role is not Role.NUMBER:
            return
        self.operations += 1
        in_place = is_in_place(call.name)
        written = [tensor for tensor in outputs if is_leaf(tensor)] if in_place else []
        computed = [tensor for tensor in outputs if not is_leaf(tensor)] if written else outputs
        carries = any(map(_requires_grad, computed))
        requires = any(before.required)
        if requires and not carries and is_transformed():
            carries = any(map(needs_gradient, computed))
        takes_numbers = bool(inputs) or call.name in _TAKE_NUMBERS
        numbers = self.numbers.among((args, kwargs)) if takes_numbers else frozenset()
        is_one = bool(outputs) and outputs[0].numel() == 1
        out = self.flow.join(
            call.name, inputs, before.required, before.values, carries, is_one, numbers
        )
        if not torch.is_grad_enabled():  # inside a custom Function, perhaps
            out.function = next((v.function for v in before.values if v.function), None)
        if requires or carries:
            operation = self._note(call, inputs, before, out, outputs, (args, kwargs))
            if not carries and not _writes_itself(inputs, before.required, written):
                self._see_cut(call, inputs, before, out, result)
        else:
            operation = Operation(self.operations, call.op, call.name, NOWHERE)
            if call.role is Role.NUMBER and out.origin:
                self._see_cut(call, inputs, before, out, result)
        if self.sites.samples and out.every:
            self._score(out)
        self.finite.see(operation, before, inputs, (args, kwargs), outputs, out, carries)
        for tensor in written:
            self.see_write(tensor, out)
        for tensor in outputs:
            self._know(tensor, out, carries and requires, operation)
        if carries and torch.is_grad_enabled():
            for value, needs, tensor in zip(before.values, before.required, inputs, strict=True):
                if needs and is_leaf(tensor) and value.leaves:
                    leaf = self.leaves.meet(tensor)
                    leaf.used, leaf.place = True, leaf.place or operation.place
            self.passes.graph.watch(operation, before.nodes, outputs)

    def _note(
        self,
        call: Call,
        inputs: Sequence[Tensor],
        before: Before,
        out: Value,
        outputs: Sequence[Tensor],
        arguments: Any,
    ) -> Operation:
        caller = find_caller()
        operation = Operation(self.operations, call.op, call.name, caller.place)
        operation.layer = self.sites.layer(caller)
        if caller.through is not None and caller.through.co_filename.endswith("grad_scaler.py"):
            self.passes.scaled = True
        operation.pure = out.pure
        operation.inputs = tuple(map(self.values.reference, inputs))
        operation.silence, operation.by_entry = before.silence, before.by_entry
        note_factors(operation, inputs, before, outputs, arguments)
        out.made_by = operation
        return operation

    def _score(self, out: Value) -> None:
        """A draw that is given to log_prob is used by its score function."""
        caller = find_caller()
        if caller.through is not None and caller.through.co_name == "log_prob":
            for site in self.sites.samples:
                site.scored = site.scored or bool(site.bit & out.every)

    def _see_cut(
        self,
        call: Call,
        inputs: Sequence[Tensor],
        before: Before,
        out: Value,
        result: Any,
    ) -> None:
        caller = find_caller()
        block, function = self._switched_off_by()
        site = self.sites.of_cut(call, caller, block, function)
        is_number = call.role is Role.NUMBER
        flowing = [
            (tensor, value)
            for tensor, value, needs in zip(inputs, before.values, before.required, strict=True)
            if needs or is_number
        ]
        for _, value in flowing:
            site.behind |= value.origin if is_number else value.leaves
        site.order = self.operations
        site.last = flowing[0][1]
        from_leaf = call.name in ("detach", "data") and all(is_leaf(t) for t, _ in flowing)
        cut = Cut(site, site.explicit or from_leaf)
        if is_number:
            self.numbers.left(result, cut)
            return
        cut.sources = self.flow.sources(inputs, before.values)
        self.flow.cut(cut, out)
        out.function = function or out.function
        if from_leaf and call.name == "data":
            out.alias = self.leaves.meet(flowing[0][0])

    def _switched_off_by(self) -> tuple[Block | None, Place | None]:
        """The block, or the custom autograd Function, in which gradients are off; if they are."""
        if torch.is_grad_enabled():
            return None, None
        if torch.is_inference_mode_enabled():
            return inference_block(), None
        is_users = self.block is not None and self.block.by_user
        function = None if is_users else function_around()
        return (None, function) if function else (self.block, None)

    def see_write(self, tensor: Tensor, out: Value) -> None:
        """Values were written into a leaf, or into its .data."""
        leaf = self.leaves.meet(tensor)
        if out.origin & ~leaf.bit:  # from another parameter, as into the copy of a teacher
            leaf.by_hand = True
        for cut in out.lost:
            cut.in_weights = cut.in_weights or not cut.explicit

    def _know(self, tensor: Tensor, out: Value, splits: bool, operation: Operation) -> None:
        value = out
        if splits and not has_slope(tensor):  # an index beside a value, as max() returns it
            value = Value(operation, every=out.every, origin=out.origin)
            self.cut_quietly(operation.op, operation.place, out.leaves, value)
        elif is_leaf(tensor) and tensor.requires_grad and is_in_place(operation.name):
            known = self.value(tensor)
            value = Value(operation, out.lost, out.every | known.every, known.leaves)
            value.pure, value.bad = known.pure, out.bad
            value.origin = known.origin | out.origin
        self.values.set(tensor, value)
        if tensor._is_view() and tensor._base is not None and (value.lost or value.bad):
            base = self.value(tensor._base)
            base.lost, base.every = base.lost | value.lost, base.every | value.every
            base.bad |= value.bad
        if out.alias is not None and is_in_place(operation.name):
            self._write_alias(out)

    def _write_alias(self, out: Value) -> None:
        tensor = out.alias.reference() if out.alias is not None else None
        if tensor is not None:
            self.see_write(tensor, out)
            known = self.value(tensor)
            known.every |= out.every
            known.lost |= frozenset(cut for cut in out.lost if cut.in_weights)

    def cut_quietly(self, op: str, place: Place, behind: int, value: Value) -> None:
        """A cut of no interest but where its value flows into a loss."""
        site = self.sites.quiet(op, place)
        site.behind |= behind
        site.order = self.operations
        self.flow.cut(Cut(site, explicit=True), value)
