"""What a training is known by: everything that it was called with.

It is derived from the call's own arguments, so that a new one cannot be forgotten.
"""

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Facts = dict[str, bool | int | float | str | None]
_DECIDE_NOTHING = {"checkpoint", "checkpoint_every", "progress", "options"} | {
    "stop_if_not_finite",
    "value_range",
}
_LIBRARIES = ("saetools.", "torch.")  # whose functions are known by their names
_COLLECTIONS = (Mapping, Sequence, range)
_FUNCTIONS = (BuiltinFunctionType, FunctionType, MethodType, functools.partial, type)
_PLAIN = (bool, str, Integral, Real, Tensor, np.ndarray, type(None), *_COLLECTIONS, *_FUNCTIONS)


def identity(call: Mapping[str, Any]) -> Facts:
    """The arguments of a call, each as one plain value or several with dotted names.

    Tensors and modules are known by a digest. A function is known by its name, its code and the
    values that it refers to; another callable by its class and its plain attributes. What an
    object keeps in a state_dict moves during training: it is restored, and not compared. Of
    `observe` the name alone counts, since it decides nothing.

    Args:
        call: the arguments by name, as `locals()` has them at a function's beginning; those in
            "options" count as if they stood beside the others.

    Example:
        >>> facts = identity({"steps": 7, "penalty": lambda z, rho=0.2: rho * z, "progress": True})
        >>> facts["steps"], facts["penalty.defaults.0"], "progress" in facts
        (7, 0.2, False)
    """
    arguments = {**call, **call.get("options", {})}
    observe = arguments.pop("observe", None)
    facts: Facts = {"observe": None if observe is None else _name(observe)}
    for name, value in arguments.items():
        if name not in _DECIDE_NOTHING:
            facts.update(_facts(name, value))
    return facts


def _facts(name: str, value: Any, inside: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    if value is None or isinstance(value, (bool, str)):
        yield name, value
    elif isinstance(value, (Integral, Real)):
        yield name, int(value) if isinstance(value, Integral) else float(value)
    elif isinstance(value, (Tensor, np.ndarray)):
        yield name, _of_tensor(value)
    elif id(value) not in inside:  # which would refer to itself
        inside = (*inside, id(value))
        parts = _parts(value)
        below = [fact for part in parts for fact in _facts(f"{name}.{part}", parts[part], inside)]
        if isinstance(value, nn.Module):
            yield name, f"{_name(value)} {_digest(repr(below).encode())}"
            return
        if not isinstance(value, _COLLECTIONS):
            yield name, _name(value)
        yield from below


def _parts(value: Any) -> dict[str, Any]:
    """What the value consists of, as far as it decides what the value does."""
    if isinstance(value, Mapping):
        return {str(key): inner for key, inner in value.items()}
    if isinstance(value, (Sequence, range)):
        return {str(i): inner for i, inner in enumerate(value)}
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, **value.keywords}
    if isinstance(value, MethodType):
        return _parts(value.__self__)
    if isinstance(value, FunctionType):
        return _referred_to(value)
    if isinstance(value, nn.Module):
        parts = {
            f"{where}.{key}": inner
            for where, module in value.named_modules()
            for key, inner in {**vars(module), "class": _name(module)}.items()
            if not key.startswith("_") and key != "training" and isinstance(inner, _PLAIN)
        }
        return parts | value.state_dict()
    if isinstance(value, type) or not callable(value):
        return {}
    restored = value.state_dict() if hasattr(value, "state_dict") else {}
    own = getattr(value, "__dict__", {})
    return {k: v for k, v in own.items() if k not in restored and isinstance(v, _PLAIN)}


def _referred_to(function: FunctionType) -> dict[str, Any]:
    outside = inspect.getclosurevars(function)
    parts = {**outside.nonlocals, "defaults": function.__defaults__ or ()}
    if f"{function.__module__}.".startswith(_LIBRARIES):
        return parts
    near = {key: inner for key, inner in outside.globals.items() if isinstance(inner, _PLAIN)}
    return {**near, **parts, "code": _of_code(function.__code__)}


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _of_code(code: CodeType) -> str:
    constants = [_of_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return _digest(code.co_code + repr((constants, code.co_names)).encode())


def _of_tensor(value: Tensor | np.ndarray[Any, Any]) -> str:
    value = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
    data = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    kind = f"{str(value.dtype).removeprefix('torch.')} on {value.device.type}"
    return f"{tuple(value.shape)} {kind} {_digest(data.numpy().data)}"


def _digest(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
