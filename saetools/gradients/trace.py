"""The way in: a block whose operations, and backward passes, are looked at."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from saetools.gradients import calls, frames
from saetools.gradients.calls import Call, Role
from saetools.gradients.cuts import Special
from saetools.gradients.findings import Trace
from saetools.gradients.frames import COMPILED, called_by_compiled_code, called_in
from saetools.gradients.leaves import Leaves, Optimizers, as_list
from saetools.gradients.nodes import Passes
from saetools.gradients.tensors import tensors_in
from saetools.gradients.verdict import Verdict
from saetools.gradients.watch import Watch

_WARNS = calls.TO_NUMBERS | {"tensor", "as_tensor", "new_tensor", "grad"}
_active: list["Tracer"] = []  # the innermost last


@contextlib.contextmanager
def trace_gradients(
    model: nn.Module | None = None, optimizer: Optimizer | Iterable[Optimizer] | None = None
) -> Iterator[Trace]:
    """Say where the code in the block loses a gradient.

    Findings are of these kinds. "cut": an input requires a gradient, the result does not, and its
    value is a term of the loss, or all that a parameter of `model` sends to any loss. "zeroed": a
    gradient arrives at an operation, nothing but zeros leaves, and some leaf gets nothing else;
    or a unit, or an entry of a parameter, stays beyond the bound of a ReLU or a clamp. "not
    finite": the first operation that makes NaN or infinity out of finite numbers, in value or in
    slope. "detached parameter": the block uses it, and no loss reaches it. With an optimizer also
    "not optimized": no optimizer holds what gets a gradient; "cleared": gradients went between
    the backward pass and the step. "no leaf": the .grad of a tensor was read that can have none.

    All but cuts need a backward pass in the block; without one every cut is a finding. What may be
    on purpose is in `not_accused`: numbers that left the graph (which cannot be followed, but one
    that comes back with all its digits is recognised), losses at their floor, units that are
    silent in one batch, straight-through estimators, stopped gradients and masks.

    Values, gradients and random numbers stay as they are, to the last bit, but for transformer
    layers in evaluation mode, which torch computes another way while any such mode is on. Other
    threads are not seen; of custom Functions, reentrant checkpoints and TorchScript only what goes
    in and comes out is.

    Args:
        model: what is to be trained. Give it: a cut in front of a layer looks like a mask, but
            for the parameters behind it that no loss reaches.
        optimizer: one, or several: whether they hold the parameters that get a gradient.

    Yields:
        Trace, filled when the block ends, and then a note on the error that ends it, if one does:
        cuts first, then the rest, each in the order of the code; the same line is reported once.

    Raises:
        RuntimeError: in the block, at code that torch.compile has made, which hides what it does.

    Example:
        >>> import torch
        >>> x = torch.ones(4, requires_grad=True)
        >>> with trace_gradients() as trace:
        ...     frequency = (x > 0).float().mean()
        >>> [(finding.kind, finding.op) for finding in trace.findings]
        [('cut', 'Tensor.gt')]
    """
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    trace, raised = Trace(), None
    tracer = Tracer(model, as_list(optimizer))
    try:
        with tracer:
            yield trace
    except BaseException as error:
        raised = error
        raise
    finally:
        with tracer.looking():
            Verdict(tracer.watch, tracer.optimizers, tracer.special.orphans).write(trace)
        if tracer.failures:
            said = f"{len(tracer.failures)} time(s), at first with {tracer.failures[0]}"
            trace.hints.append(f"The tracer itself failed {said}")
        if raised is not None and trace.findings:  # the block's last line, print(trace), is not met
            raised.add_note(f"trace_gradients:\n{trace}")


class _Looking:
    """While we look, no other tracer sees it; and what we fail at is noted, not raised."""

    def __init__(self, failures: list[str]) -> None:
        self._failures = failures
        self._silent = torch._C.DisableTorchFunction()

    def __enter__(self) -> None:
        self._silent.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        self._silent.__exit__(kind, error, traceback)
        if not isinstance(error, Exception) or str(error) == COMPILED:
            return False
        self._failures.append(f"{type(error).__name__}: {error}")
        return True


class Tracer(TorchFunctionMode):
    """Sorts the calls that torch makes known, and hands them to those who look."""

    def __init__(self, model: nn.Module | None, optimizers: list[Optimizer]) -> None:
        super().__init__()
        self.failures: list[str] = []  # of the tracer's own, which must not stop the user's code
        leaves = Leaves(model, optimizers)
        self.optimizers = Optimizers(optimizers, leaves, self.looking)
        self.watch = Watch(model, leaves, Passes(leaves, self.looking))
        self.special = Special(self.watch)
        self.paused = False
        self._checked: set[Any] = set()
        self._around = contextlib.ExitStack()
        self._blocks = [
            None if torch.is_grad_enabled() else frames.switched_off()
        ]  # None where it is on

    def looking(self) -> _Looking:
        """A block of the tracer's own."""
        return _Looking(self.failures)

    def __enter__(self) -> "Tracer":
        self.watch.sites.block = self._blocks[-1]
        self._around.enter_context(calls.reported_to(self._see_seam))
        self._around.enter_context(self.optimizers.watched())
        _active.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _active.remove(self)
        self._around.close()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`, and look at what went in and what came out."""
        del types
        kwargs = kwargs or {}
        call = calls.call_of(func)
        is_steps = self.optimizers.stepping and not torch.is_grad_enabled()  # its own arithmetic
        if call.role is Role.PASS or self.paused or is_steps:
            return func(*args, **kwargs)
        if call.role is Role.OPERATION or call.role is Role.NUMBER:
            return self._operation(func, call, args, kwargs)
        if call.role is Role.BACKWARD:
            return self._backward(func, args, kwargs)
        result = func(*args, **kwargs)
        with self.looking():
            if call.role is Role.GRAD_MODE:
                frame = sys._getframe(1)
                back = frame.f_back.f_code.co_name if frame.f_back is not None else ""
                self._switch(bool(args[0]), {frame.f_code.co_name, back})
            elif call.role is Role.SET_GRAD and args[1] is None:
                self.optimizers.see_cleared()
            elif call.role is Role.GET_GRAD:
                self.special.see_grad(args[0], result)
            elif call.role is Role.SET_DATA:
                self.special.see_set_data(call, args[0], args[1])
            elif call.role is Role.COLLECTIVE:
                self.special.see_collective(call, (args, kwargs))
        return result

    def _see_seam(self, op: str, arguments: tuple[Any, ...], result: Any) -> None:
        if self.paused:
            return
        with self.looking():
            if op.startswith(calls.INFERENCE):
                is_on = op != calls.INFERENCE and torch.is_grad_enabled()
                self._switch(
                    is_on, {"__enter__" if op == calls.INFERENCE else "__exit__"}, calls.INFERENCE
                )
            else:
                self.special.see_seam(op, Call(Role.OPERATION, "", op, False), arguments, result)

    def _switch(self, is_on: bool, callers: set[str], op: str = "torch.no_grad") -> None:
        """Gradients were switched on or off: by a block that begins or ends, or by a call."""
        is_end = "__exit__" in callers and len(self._blocks) > 1
        if is_end:
            self._blocks.pop()
        elif "__enter__" in callers:
            self._blocks.append(None)
        if is_on:
            self._blocks[-1] = None
        elif not is_end or self._blocks[-1] is None:
            self._blocks[-1] = frames.switched_off(op)
        self.watch.sites.block = self._blocks[-1]

    def _operation(self, func: Any, call: Call, args: Any, kwargs: Any) -> Any:
        code = sys._getframe(2).f_code
        if code not in self._checked:  # once for each function that calls one
            self._checked.add(code)
            if torch.compiler.is_compiling() or called_by_compiled_code():
                raise RuntimeError(COMPILED)
        seen = None
        with self.looking():
            inputs = tensors_in(args) + (tensors_in(kwargs) if kwargs else [])
            if call.name in calls.OF_FIRST_ALONE:
                inputs = inputs[:1]
            if call.name in ("zero_", "_foreach_zero_") and called_in("", "zero_grad"):
                self.optimizers.see_cleared()
            seen = self.watch.look_before(call, inputs, args, kwargs)
        result = (
            func(*args, **kwargs) if call.name not in _WARNS else calls.as_user(func, args, kwargs)
        )
        if seen is not None:
            with self.looking():
                self.watch.see(seen, result)
        return result

    def _backward(self, func: Any, args: Any, kwargs: Any) -> Any:
        roots = tensors_in(args[0] if args else kwargs.get("tensors", kwargs.get("outputs")))
        passes = self.watch.passes
        with self.looking():
            passes.begin(roots, list(map(self.watch.value, roots)))
        try:
            result = func(*args, **kwargs)
        finally:
            with self.looking():
                passes.end()
        with self.looking():
            self.optimizers.see_backward()
            if func is torch.autograd.grad:
                self.special.see_derivatives(tensors_in(result), roots)
        return result


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """For a while, no tracer looks: what runs is not the user's."""
    before = [(tracer, tracer.paused) for tracer in _active]
    for tracer, _ in before:
        tracer.paused = True
    try:
        yield
    finally:
        for tracer, was in before:
            tracer.paused = was
