"""Calls into torch that no mode can see: made visible for as long as a tracer looks.

TorchScript runs its operations without Python, and nn.Parameter(tensor) and Variable(tensor) take
the values and leave the history, in silence. For the time of the block these few callables report
what goes in and what comes out, and then they are as they were.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Report = Callable[[str, tuple[Any, ...], Any], None]
_SEAMS: tuple[tuple[Any, str, str], ...] = (
    (torch._C.ScriptFunction, "__call__", "a torch.jit.script function"),
    (torch._C.ScriptMethod, "__call__", "a torch.jit.script module"),
    (torch.nn.Parameter, "__new__", "torch.nn.Parameter"),
    (torch.autograd.Variable, "__new__", "torch.autograd.Variable"),
)


def _reporting(original: Any, op: str, report: Report) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        report(op, (args[1:], kwargs), result)
        return result

    return call


@contextmanager
def reported_to(report: Report) -> Iterator[None]:
    """Call `report(op, arguments, result)` after each call of one of them, in the block."""
    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in _SEAMS]
    try:
        for owner, name, op in _SEAMS:
            setattr(owner, name, _reporting(getattr(owner, name), op, report))
        yield
    finally:
        for owner, name, original in before:
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
