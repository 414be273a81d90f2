"""The tracer: it sees every operation, and every autograd node behind it."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from saetools.gradients import advice
from saetools.gradients.findings import Finding, Trace
from saetools.gradients.flow import Flow
from saetools.gradients.frames import (
    Place,
    called_by_compiled_code,
    called_by_library,
    users_frame,
    users_place,
)
from saetools.gradients.readings import (
    given,
    grad_fn_of,
    has_nan,
    is_finite,
    is_readable,
    needs_gradient,
    nodes_behind,
    share_not_finite,
    share_zeroed,
    tensors_in,
    units_to_check,
    was_finite,
)

_ORDER = ("cut", "zeroed", "not finite")
_BACKWARD = (Tensor.backward, torch.autograd.backward, torch.autograd.grad)
_TO_NUMBERS = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__complex__"}
_WARNS = _TO_NUMBERS | {"tensor", "as_tensor", "new_tensor", "grad"}
_VIEWS = {"data", "T", "mT", "H", "mH", "real", "imag"}  # attributes that are tensors, computed
_VALUES_UNUSED = {
    *("size", "numel", "dim", "expand_as", "view_as", "type_as", "grad"),
    *("register_hook", "requires_grad_", "retain_grad"),
}
_COMPILED = (
    "trace_gradients cannot see inside torch.compile: trace the code before it is compiled, "
    "or set TORCH_COMPILE_DISABLE=1"
)


@contextmanager
def trace_gradients(model: nn.Module | None = None) -> Iterator[Trace]:
    """Say where the code in the block loses a gradient.

    Findings are of four kinds. "cut": an input requires a gradient and the result does not.
    "zeroed": a gradient arrives at an operation that can be flat (a clamp, a rounding, a ReLU, a
    sigmoid, a write, a mask), and nothing but zeros leaves it, for all of its input or for a unit
    (the last dim, or the channels of an image) that gets a gradient on 32 rows or more. "not
    finite": a finite gradient or value goes in, NaN or infinity comes out.
    "detached parameter": no traced loss reaches it. All but the first need a backward pass in
    the block.

    Where a backward pass was seen, cuts that do not flow into the loss stand in `aside`, and so
    do straight-through estimators, masks, stopped gradients, and cuts into Python numbers, which
    cannot be followed. Where none was seen, every cut is a finding, but for straight-through
    estimators.

    Values, gradients and random numbers of the traced code stay as they are, to the last bit,
    but for transformer layers in evaluation mode, which torch computes another way while any such
    mode is on. Other threads are not seen. Inside custom autograd Functions and
    reentrant checkpoints nothing is looked at.

    Args:
        model: its parameters are checked as well.

    Yields:
        Trace, filled when the block ends: cuts first, then the rest, each in the order of the
        code; the same line is reported once.

    Raises:
        RuntimeError: in the block, at code that torch.compile has made, which hides what it does.

    Example:
        >>> x = torch.ones(4, requires_grad=True)
        >>> with trace_gradients() as trace:
        ...     frequency = (x > 0).float().mean()
        >>> [(finding.kind, finding.op) for finding in trace.findings]
        [('cut', 'Tensor.gt')]
    """
    trace = Trace()
    tracer = _Tracer()
    try:
        with tracer:
            yield trace
    finally:
        tracer.active = False
        trace.findings, trace.aside = tracer.verdict(model)
        tracer.flow = Flow()  # the hooks on a graph that lives on must not keep this one


@dataclass
class _Fault:
    """A fault as it is found, before it is known whether it matters."""

    kind: str
    order: int  # of the operation
    op: str
    place: Place
    share: float = 1.0
    forward: bool = False  # not finite in value, not in gradient
    quiet: bool = False  # of no interest but where it flows into the loss
    units: str = ""  # what a zero gradient is a fault of: "all" of it, each "unit", each "entry"


class _Tracer(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.active = True
        self.operations = 0
        self.faults: dict[tuple[str, int], _Fault] = {}
        self.flow = Flow()
        self.in_loss: set[int] = set()  # the faults, by the order of their operation, in a loss
        self.backward: Place | None = None
        self.reached: set[int] = set()  # ids of the leaves that a loss reaches
        self.sees_all = True  # no reentrant checkpoint, which hides the leaves that it reaches

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`, and look at what went in and what came out."""
        del types
        kwargs = kwargs or {}
        if torch.compiler.is_compiling() or called_by_compiled_code():
            raise RuntimeError(_COMPILED)
        if func in _BACKWARD:
            self._see_backward(args, kwargs)
            result = func(*args, **kwargs)
            for gradient in tensors_in(result):
                if not gradient.requires_grad:  # a finding only where the loss is made from it
                    self._see_quiet_cut("torch.autograd.grad", gradient)
            return result
        full = _resolved(func)
        name = full.removesuffix(".__get__").rpartition(".")[-1]
        inputs = tensors_in((args, kwargs))
        attribute = full.endswith("__get__") and name not in _VIEWS
        if not inputs or attribute or name in _VALUES_UNUSED or name.endswith("_like"):
            return _call(func, name, args, kwargs)
        required = list(map(needs_gradient, inputs))
        before = list(map(self.flow.cuts, inputs))
        in_place = name == "__setitem__" or name.endswith("_")
        with torch._C.DisableTorchFunction():
            finite = not in_place or all(map(is_finite, inputs))
        result = _call(func, name, args, kwargs)
        outputs = tensors_in(result) or ([args[0]] if name == "__setitem__" else [])
        if outputs or name in _TO_NUMBERS:
            with torch._C.DisableTorchFunction():  # what we look at is not traced by another tracer
                self._see(full, name, args, inputs, required, before, finite, outputs)
        return result

    def _see(
        self,
        full: str,
        name: str,
        args: tuple[Any, ...],
        inputs: Sequence[Tensor],
        required: Sequence[bool],
        before: Sequence[frozenset[int]],
        finite: bool,
        outputs: Sequence[Tensor],
    ) -> None:
        fault = _Fault("cut", self.operations, advice.public_name(full), users_place())
        self.operations += 1
        carries = any(map(needs_gradient, outputs))
        cuts = self.flow.join(name, inputs, required, before, outputs, carries)
        if any(required) and not carries and not called_by_library():
            cuts |= self._see_cut(fault, name)
        appears = finite and not all(map(is_finite, outputs)) and was_finite(args, inputs, outputs)
        if appears and (carries or any(map(has_nan, outputs))):  # a constant -inf is a mask
            self._add(replace(fault, kind="not finite", forward=True))
            cuts |= {fault.order}
        for output in outputs:
            self.flow.mark(output, cuts)
            is_index = not (output.is_floating_point() or output.is_complex())
            if carries and any(required) and is_index:  # beside a value, as max() returns it
                self._see_quiet_cut(fault.op, output)
        if carries and torch.is_grad_enabled():
            fault.units = units_to_check(name, args, inputs)
            self._watch(fault, inputs, outputs)

    def _see_cut(self, fault: _Fault, name: str) -> frozenset[int]:
        if not torch.is_grad_enabled() and name not in _TO_NUMBERS:
            fault = replace(fault, op="torch.no_grad")
        if fault.op == "torch.no_grad" or name in ("detach", "detach_", "data"):
            self.flow.explicit.add(fault.order)
        self._add(fault)
        return frozenset({fault.order})

    def _see_quiet_cut(self, op: str, output: Tensor) -> None:
        fault = _Fault("cut", self.operations, op, users_place(), quiet=True)
        self.operations += 1
        self._add(fault)
        self.flow.explicit.add(fault.order)
        self.flow.mark(output, self.flow.cuts(output) | {fault.order})

    def _see_backward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.backward = users_place()
        roots = tensors_in(args[0] if args else kwargs.get("tensors", kwargs.get("outputs")))
        for root in roots:
            self.in_loss |= self.flow.cuts(root)
            self.reached.add(id(root))
        for node in nodes_behind([root.grad_fn for root in roots], stop=lambda _: False):
            if hasattr(node, "variable"):  # it accumulates the gradient of a leaf
                self.reached.add(id(node.variable))
            self.sees_all &= "CheckpointFunction" not in node.name()

    def _watch(self, fault: _Fault, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Hook the autograd nodes that an operation made, to see the backward pass there.

        On the node, not on the tensor: a tensor cannot tell one of its consumers from another.
        """
        if any(map(torch._C._functorch.is_functorch_wrapped_tensor, outputs)):
            return
        earlier = [grad_fn_of(tensor) for tensor in inputs if all(tensor is not t for t in outputs)]
        new = list(map(grad_fn_of, outputs))
        if any(node is not None and "CompiledFunction" in node.name() for node in earlier + new):
            raise RuntimeError(_COMPILED)

        def is_known(node: Any) -> bool:
            known = hasattr(node, "variable") or node in earlier
            return known or node.metadata.get("saetools") is self

        for node in nodes_behind(new, stop=is_known):
            node.metadata["saetools"] = self
            node.register_hook(self._hook(fault))

    def _hook(self, fault: _Fault) -> Callable[[Any, Any], None]:
        def look(leaving: tuple[Tensor | None, ...], arriving: tuple[Tensor | None, ...]) -> None:
            came, left = given(arriving), given(leaving)
            readable = all(map(is_readable, came + left))
            if not self.active or not came or not left or not readable:
                return
            if not all(map(is_finite, came)):
                return
            if share := share_not_finite(left):
                self._add(replace(fault, kind="not finite", share=share))
            elif share := share_zeroed(fault.units, came, left):
                self._add(replace(fault, kind="zeroed", share=share))

        return look

    def _add(self, fault: _Fault) -> None:
        key = fault.kind, fault.order
        if key not in self.faults or fault.share > self.faults[key].share:
            self.faults[key] = fault

    def verdict(self, model: nn.Module | None) -> tuple[list[Finding], list[Finding]]:
        """Findings, and what is set aside; each line once."""
        groups: dict[bool, dict[tuple[str, str, Place], Finding]] = {True: {}, False: {}}
        for fault in sorted(self.faults.values(), key=lambda f: (_ORDER.index(f.kind), f.order)):
            on_purpose = fault.kind == "cut" and fault.order in self.flow.straight_through
            in_value = fault.kind == "cut" or fault.forward
            lost = in_value and self.backward is not None and fault.order not in self.in_loss
            if fault.quiet and fault.order not in self.in_loss:
                continue
            words = advice.STRAIGHT_THROUGH if on_purpose else advice.on(fault.kind, fault.op)
            if fault.forward:
                words = advice.NOT_FINITE_VALUE
            group = groups[not (on_purpose or lost)]
            key = fault.kind, fault.op, fault.place
            group.setdefault(key, _finding(fault.kind, fault.op, fault.place, fault.share, words))
        findings, aside = groups[True], groups[False]
        detached = []
        if model is not None and self.backward is not None and self.sees_all:
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and id(parameter) not in self.reached:
                    words = advice.DETACHED
                    detached.append(_finding("detached parameter", name, self.backward, 1.0, words))
        left_aside = [finding for key, finding in aside.items() if key not in findings]
        return [*findings.values(), *detached], left_aside


@cache  # resolve_name changes the warning filters for a moment, which is slow and not unseen
def _resolved(func: Any) -> str:
    return str(resolve_name(func) or getattr(func, "__name__", ""))


def _call(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `func`; what it warns of is said of the user's line, as it is without a tracer."""
    if name not in _WARNS:
        return func(*args, **kwargs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = func(*args, **kwargs)
    frame = users_frame()
    for warning in caught:
        warnings.warn_explicit(
            warning.message,
            warning.category,
            frame.f_code.co_filename,
            frame.f_lineno,
            frame.f_globals.get("__name__"),
            frame.f_globals.setdefault("__warningregistry__", {}),
        )
    return result


def _finding(kind: str, op: str, place: Place, share: float, words: tuple[str, str]) -> Finding:
    return Finding(kind, op, place.shown(), place.lineno, place.source(), *words, share)
