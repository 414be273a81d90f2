"""The tracer: it sees every operation, and every autograd node behind it."""

import contextlib
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from saetools.gradients.backward import Passes
from saetools.gradients.blocks import Block, switched_off
from saetools.gradients.frames import COMPILED, called_by_compiled_code, called_in, find_caller
from saetools.gradients.leaves import Leaves
from saetools.gradients.looking import Looking
from saetools.gradients.optimizers import Optimizers
from saetools.gradients.roles import OF_FIRST_ALONE, TO_NUMBERS, Call, Role, call_of
from saetools.gradients.seams import reported_to
from saetools.gradients.special import Special
from saetools.gradients.tensors import tensors_in
from saetools.gradients.watch import Watch

_WARNS = TO_NUMBERS | {"tensor", "as_tensor", "new_tensor", "grad"}
active: list["Tracer"] = []  # the innermost last


class Tracer(TorchFunctionMode):
    """Sorts the calls that torch makes known, and hands them to those who look."""

    def __init__(self, model: nn.Module | None, optimizers: Iterable[Optimizer]) -> None:
        super().__init__()
        given = list(optimizers)
        self.leaves = Leaves(model, given)
        self.failures: list[str] = []  # of the tracer's own, which must not stop the user's code
        self.passes = Passes(self.leaves, self.failures)
        self.optimizers = Optimizers(given, self.leaves)
        self.watch = Watch(model, self.leaves, self.passes)
        self.special = Special(self.watch)
        self.paused = False
        self._checked: set[Any] = set()
        self._blocks: list[Block | None] = [None]  # that surround the code; None where it is on
        self._around = contextlib.ExitStack()

    def __enter__(self) -> "Tracer":
        if not torch.is_grad_enabled():
            place = find_caller().place
            words = f"gradients were switched off before the block of line {place.lineno} began"
            self._blocks = [Block("torch.set_grad_enabled(False)", place, words)]
            self.watch.block = self._blocks[0]
        self._around.enter_context(reported_to(self._see_seam))
        self._around.enter_context(self.optimizers.watched())
        active.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        active.remove(self)
        self._around.close()
        self.passes.close()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`, and look at what went in and what came out."""
        del types
        kwargs = kwargs or {}
        call = call_of(func)
        role = call.role
        if role is Role.PASS or self.paused:
            return func(*args, **kwargs)
        if self.optimizers.stepping and not torch.is_grad_enabled():
            return func(*args, **kwargs)  # the optimizer's own arithmetic
        if role is Role.OPERATION or role is Role.NUMBER:
            return self._operation(func, call, args, kwargs)
        if role is Role.BACKWARD:
            return self._backward(func, args, kwargs)
        result = func(*args, **kwargs)
        with self._looking():
            self._see_other(call, args, kwargs, result)
        return result

    def _see_other(self, call: Call, args: Any, kwargs: Any, result: Any) -> None:
        """Look at a call that is no operation and no backward pass."""
        if call.role is Role.GRAD_MODE:
            self._switch(bool(args[0]), sys._getframe(2).f_code.co_name)
        elif call.role is Role.SET_GRAD:
            if args[1] is None:
                self.optimizers.see_cleared()
        elif call.role is Role.GET_GRAD:
            self.special.see_grad(args[0], result)
        elif call.role is Role.SET_DATA:
            self.special.see_set_data(call, args[0], args[1])
        elif call.role is Role.COLLECTIVE:
            self.special.see_collective(call, args, kwargs)

    def _see_seam(self, op: str, arguments: tuple[Any, ...], result: Any) -> None:
        if not self.paused:
            with self._looking():
                self.special.see_seam(op, arguments, result)

    def _switch(self, is_on: bool, caller: str) -> None:
        """Gradients were switched on or off: by a block that begins or ends, or by a call."""
        if caller == "__exit__" and len(self._blocks) > 1:
            self._blocks.pop()
        else:
            block = None if is_on else switched_off()
            kept = self._blocks if caller == "__enter__" else self._blocks[:-1]
            self._blocks = [*kept, block]
        self.watch.block = self._blocks[-1]

    def _operation(self, func: Any, call: Call, args: Any, kwargs: Any) -> Any:
        frame = sys._getframe(2)
        if frame.f_code not in self._checked:  # once for each function that calls one
            self._checked.add(frame.f_code)
            if torch.compiler.is_compiling() or called_by_compiled_code():
                raise RuntimeError(COMPILED)
        inputs = tensors_in(args)
        if kwargs:
            inputs += tensors_in(kwargs)
        if call.name in OF_FIRST_ALONE:
            inputs = inputs[:1]
        if call.name in ("zero_", "_foreach_zero_") and called_in("", "zero_grad"):
            self.optimizers.see_cleared()
        look = None
        with self._looking():
            look = self.watch.look_before(call, inputs, args, kwargs)
        result = func(*args, **kwargs) if call.name not in _WARNS else _call(func, args, kwargs)
        if look is not None:
            with self._looking():
                self.watch.see(call, look, inputs, args, kwargs, result)
        return result

    def _looking(self) -> Looking:
        return Looking(self.failures)

    def _backward(self, func: Any, args: Any, kwargs: Any) -> Any:
        roots = tensors_in(args[0] if args else kwargs.get("tensors", kwargs.get("outputs")))
        with self._looking():
            self.passes.begin(roots, list(map(self.watch.value, roots)))
        try:
            result = func(*args, **kwargs)
        finally:
            with self._looking():
                self.passes.end()
        self.optimizers.see_backward()
        with self._looking():
            self.special.see_derivatives(func, tensors_in(result), roots)
        return result


def _call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `func`; what it warns of is said of the user's line, as it is without a tracer."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = func(*args, **kwargs)
    if not caught:
        return result
    frame = find_caller().frame
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


def paused() -> contextlib.AbstractContextManager[None]:
    """For a while, no tracer looks: what runs is not the user's."""

    @contextlib.contextmanager
    def pause() -> Any:
        before = [(tracer, tracer.paused) for tracer in active]
        for tracer, _ in before:
            tracer.paused = True
        try:
            yield
        finally:
            for tracer, was in before:
                tracer.paused = was

    return pause()
