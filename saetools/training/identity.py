"""What a training is known by: everything that it was called with, taken from the call itself."""

import functools
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Facts = dict[str, str]
_DECIDE_NOTHING = "checkpoint checkpoint_every progress stop_if_not_finite value_range options"
_LIBRARIES = ("saetools.", "torch.")  # whose functions are known by their names


def identity(call: Mapping[str, Any]) -> Facts:
    """The arguments of a call by name, each as a text; those in "options" as if beside the others.

    Tensors and modules are known by a digest; a function by its name, its code and the values that
    it refers to; another callable by its class and attributes, but for those in a state_dict, which
    is restored. Of `observe` the name alone counts, since it decides nothing.
    """
    arguments = {**call, **call.get("options", {})}
    if callable(arguments.get("observe")):
        arguments["observe"] = _name(arguments["observe"])
    decisive = [name for name in arguments if name not in _DECIDE_NOTHING.split()]
    return {name: _text(arguments[name]) for name in decisive}


def settings_of(model: nn.Module) -> dict[str, Any]:
    """What a model is beside the values of its parameters and buffers, by dotted names."""
    return {
        f"{where}.{key}".lstrip("."): value
        for where, module in model.named_modules()
        for key, value in {**vars(module), "class": type(module)}.items()
        if not key.startswith("_") and key != "training"
    }


def _text(value: Any, inside: tuple[int, ...] = ()) -> str:
    inner = functools.partial(_text, inside=(*inside, id(value)))
    if isinstance(value, str | bool | int | float | None):
        return repr(value)
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, Tensor | np.ndarray):
        value = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        return f"{value.dtype} {tuple(value.shape)} {value.device.type} {_digest(data)}"
    if id(value) in inside:  # it refers to itself
        return "..."
    if isinstance(value, Sequence | range):
        return f"[{', '.join(map(inner, value))}]"
    if isinstance(value, nn.Module):
        whole = {**settings_of(value), **value.state_dict()}
        return f"{_name(value)} {_digest(inner(whole).encode())}"
    name, parts = ("", value) if isinstance(value, Mapping) else (_name(value), _parts(value))
    listed = ", ".join(f"{key}={inner(part)}" for key, part in parts.items())
    return f"{name}({listed})" if listed else name


def _parts(value: Any) -> dict[str, Any]:
    """What decides, beside its name, what a function or another object does."""
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, **value.keywords}
    if isinstance(value, MethodType):
        return {"self": value.__self__}
    if isinstance(value, FunctionType):
        outside = inspect.getclosurevars(value)
        parts = {"defaults": value.__defaults__ or (), **outside.nonlocals}
        if f"{value.__module__}.".startswith(_LIBRARIES):
            return parts
        code = value.__code__
        text = repr([code.co_names, [getattr(c, "co_code", c) for c in code.co_consts]])
        return {**outside.globals, **parts, "code": _digest(code.co_code + text.encode())}
    if isinstance(value, type) or not callable(value):
        return {}
    restored = value.state_dict() if hasattr(value, "state_dict") else {}
    return {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in restored}


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _digest(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
