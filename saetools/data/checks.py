"""The one door for arguments: an error names the argument, its value and what is allowed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader


def check_tensor(
    name: str, value: object, *, dims: int, rows: int = 1, may_be_empty: bool = False
) -> Tensor:
    """A floating tensor of at least `dims` dims, none of them empty, or but for the rows."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}{_advice(name, value)}"
        )
    if value.is_sparse or value.is_sparse_csr:
        raise TypeError(f"{name} must be dense, got {value.layout}: use {name}.to_dense()")
    if not value.is_floating_point():
        advice = "" if value.is_complex() else f": use {name}.float()"
        raise TypeError(f"{name} must have a floating dtype, got {value.dtype}{advice}")
    if value.ndim < dims:
        raise ValueError(f"{name} must have at least {dims} dims, got shape {tuple(value.shape)}")
    if value.numel() == 0:
        if may_be_empty and value.shape[-1] > 0:
            return value
        raise ValueError(f"{name} must not be empty, got shape {tuple(value.shape)}")
    if dims >= 2 and value.shape[-2] < rows:
        raise ValueError(f"{name} must have at least {rows} rows, got shape {tuple(value.shape)}")
    return value


def _advice(name: str, value: object) -> str:
    """How to make a tensor of what is none."""
    if hasattr(value, "to_numpy"):  # a DataFrame, whose items are the names of its columns
        return f': use torch.tensor({name}.to_numpy("float32"))'
    if hasattr(value, "toarray"):  # SciPy's sparse ones
        return f": use torch.as_tensor({name}.toarray(), dtype=torch.float32)"
    if isinstance(value, DataLoader) or (isinstance(value, list) and _holds_tensors(value)):
        return f": join its batches of rows, torch.cat(list({name}))"
    if hasattr(value, "__array__") or isinstance(value, list):
        return f": use torch.as_tensor({name}, dtype=torch.float32)"
    if isinstance(getattr(value, "train", None), Tensor):  # a ChicagoContext, a SparseMixture
        return ": give its train"
    if hasattr(value, name):  # an Output
        return f": give its {name}"
    return f": give one of its {len(value)} items" if isinstance(value, tuple | Mapping) else ""


def _holds_tensors(values: Sequence[object]) -> bool:
    return len(values) > 0 and all(isinstance(each, Tensor) for each in values)


def check_kind(name: str, value: object, kind: Any, called: str) -> None:
    """Raise unless the value is of a kind, which the error calls so."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {called}, got {type(value).__name__}")


def check_module(name: str, value: object) -> None:
    """Raise unless the value is a model."""
    check_kind(name, value, nn.Module, "an nn.Module")


def check_function(name: str, value: object, *, such_as: str) -> None:
    """Raise for what cannot be called, a class, or as a loss one of torch's own."""
    if isinstance(value, type) and name != "scheduler":
        raise TypeError(f"{name} must be a function, got a class: make one, {value.__name__}(...)")
    if not callable(value):
        which = " that is not yet called" if isinstance(value, Tensor) else ""
        got = f"got {value!r:.60}: give one{which}, such as {such_as}"
        raise TypeError(f"{name} must be a function, {got}")
    if name == "loss" and str(getattr(value, "__module__", "")).startswith("torch.nn"):
        raise TypeError(f"loss must take the model and a batch, got {value!r:.60}: say {such_as}")


def check_returned(name: str, value: object, shape: Sequence[int], how: str) -> Tensor:
    """What a function that was given has returned, if it is a tensor of that shape."""
    if not isinstance(value, Tensor):
        advice = _advice(name, value)
        if isinstance(value, Real):
            advice = ": a number has left the graph"
        elif value is None:
            advice = ": end it with a return"
        raise TypeError(f"{name} must return a tensor, got {type(value).__name__}{advice}")
    if value.shape != tuple(shape):
        wanted = f"a tensor of shape {tuple(shape)}, {how}"
        raise ValueError(f"{name} must return {wanted}, got shape {tuple(value.shape)}")
    return value


def check_output(output: Any, field: str, remedy: str) -> Any:
    """What a model has returned, if it has a field of an Output."""
    if hasattr(output, field):
        return output
    got = f"got {type(output).__name__}, without {field}"
    fields = "saetools.Output(reconstruction, latents, pre_activations)"
    raise TypeError(f"model must return an Output, {got}: let it return {fields}, or {remedy}")


def check_rows(name: str, value: object, *, least: int = 1) -> Tensor:
    """A tensor (rows, D) of at least so many rows."""
    tensor = check_tensor(name, value, dims=2, rows=least)
    if tensor.ndim != 2:
        raise ValueError(f"{name} must have 2 dims, (rows, D), got shape {tuple(tensor.shape)}")
    return tensor


def check_like(name: str, value: Tensor, model: nn.Module) -> Tensor:
    """A tensor of the dtype and on the device of the model's parameters."""
    check_module("model", model)
    parameter = next(model.parameters(), value)
    # Inside a block of autocast dtypes may differ.
    same = value.dtype == parameter.dtype or torch.is_autocast_enabled(value.device.type)
    if not same or value.device != parameter.device:
        wanted, got = (f"{each.dtype} on {each.device}" for each in (parameter, value))
        raise ValueError(f"{name} must be as the model is, {wanted}, got {got}: use {name}.to(...)")
    return value


def check_finite(name: str, value: Tensor) -> Tensor:
    """A tensor without NaN and infinity."""
    bad = ~torch.isfinite(value)
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name} must be finite, got {value[where].item()} at {where} "
            f"and {int(bad.sum())} such value(s) in all"
        )
    return value


def check_rho(rho: object, *, like: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """A number or tensor strictly between 0 and 1 in the dtype of `like`, to which it is rounded.

    It must broadcast against the shape. The values of a tensor are not checked where it is
    compiled.
    """
    limits = torch.finfo(like.dtype)
    least = limits.smallest_normal  # 1 / rho overflows below it
    if isinstance(rho, Tensor):
        check_broadcast("rho", rho, shape or (), "the units")
        target = rho.to(like)
        if torch.compiler.is_compiling() or ((target >= least) & (target < 1)).all():
            return target
        raise ValueError(f"rho must lie strictly between 0 and 1, got {rho}{_share(target.max())}")
    if isinstance(rho, bool) or not isinstance(rho, Real):
        raise TypeError(
            f"rho must be a number or a tensor, got {type(rho).__name__}{_advice('rho', rho)}"
        )
    number = float(rho)
    if not least <= number <= 1 - limits.eps / 2:
        near = f", too near to an end for {like.dtype}"
        rounded = near if 0 < number < 1 else _share(number)
        raise ValueError(f"rho must lie strictly between 0 and 1, got {rho}{rounded}")
    return like.new_full((), number)


def _share(rho: float | Tensor) -> str:
    """What a rho in percent is as a share."""
    percent = float(rho)
    return f": {percent:g} % is rho={percent / 100:g}" if 1 <= percent < 100 else ""


def check_broadcast(name: str, value: Tensor, shape: Sequence[int], whose: str) -> None:
    """Raise unless the value can be broadcast against a shape; dims in front may be more."""
    pairs = zip(reversed(value.shape), reversed(shape), strict=False)
    if not all(a == b or 1 in (a, b) for a, b in pairs):
        against = f"{whose}, shape {tuple(shape)}, got shape {tuple(value.shape)}"
        raise ValueError(f"{name} must broadcast against {against}")


def check_positive(name: str, value: object, *, like: Tensor) -> float | Tensor:
    """A finite number greater than 0, or a tensor of such that fits `like`, in its dtype."""
    if not isinstance(value, Tensor):
        number = check_number(name, value, above=0)
        if number < torch.finfo(like.dtype).smallest_normal:
            raise ValueError(f"{name} must not be so near to 0 in {like.dtype}, got {value}")
        return number
    if like.numel() > 0:
        check_broadcast(name, value, like.shape, "pre_activations")
    value = value.to(like)
    if torch.compiler.is_compiling() or ((value > 0) & value.isfinite()).all():
        return value
    raise ValueError(f"{name} must be finite and greater than 0, got {value}")


def check_count(name: str, value: object, *, minimum: int = 1) -> int:
    """An int of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_number(
    name: str, value: object, *, above: float = -inf, minimum: float = -inf, below: float = inf
) -> float:
    """A finite float within the bounds that are given."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not isfinite(number) or number <= above or number < minimum:
        bound = f"greater than {above:g}" if above > -inf else f"at least {minimum:g}"
        raise ValueError(f"{name} must be finite and {bound}, got {value}")
    if number >= below:
        raise ValueError(f"{name} must be less than {below:g}, got {value}")
    return number


@contextmanager
def needs(package: str, *, extra: str) -> Iterator[None]:
    """The block imports an optional package, which an extra of this one brings."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{package} is missing: python -m pip install {package}, or, in a clone of saetools, "
            f'python -m pip install ".[{extra}]"',
            name=error.name,
        ) from error
