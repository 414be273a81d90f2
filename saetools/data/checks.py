"""The one door for arguments: an error names the argument, its value and what is allowed."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import ceil, inf, isfinite
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

_SAME_VALUES = re.compile(  # names of autograd's nodes that hand on the values they are given
    "(Alias|Clone|Expand|Permute|ReshapeAlias|Select|Slice|Squeeze|ToCopy|Transpose|T|Unsafe"
    "View|Unsqueeze|View|Index|IndexSelect)Backward"
)
_IS_REST = ContextVar("_IS_REST", default=False)


def check_tensor(
    name: str, value: object, *, dims: int, rows: int = 1, may_be_empty: bool = False
) -> Tensor:
    """A floating tensor of at least `dims` dims, none of them empty, or but for the rows."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}{_advice(name, value)}"
        )
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
    if hasattr(value, "__array__") or isinstance(value, list):
        return f": use torch.as_tensor({name}, dtype=torch.float32)"
    return f": give its {name}" if hasattr(value, name) else ""  # an Output


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
        units = f"the units, shape {tuple(shape or ())}"
        pairs = zip(reversed(rho.shape), reversed(shape or ()), strict=False)
        if not all(a == b or 1 in (a, b) for a, b in pairs):
            raise ValueError(f"rho must broadcast against {units}, got shape {tuple(rho.shape)}")
        target = rho.to(like)
        if torch.compiler.is_compiling() or ((target >= least) & (target < 1)).all():
            return target
        raise ValueError(f"rho must lie strictly between 0 and 1, got {rho}{_share(target.max())}")
    if isinstance(rho, bool) or not isinstance(rho, Real):
        raise TypeError(f"rho must be a number or a tensor, got {type(rho).__name__}")
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


def check_positive(name: str, value: object, *, like: Tensor) -> float | Tensor:
    """A finite number greater than 0, or a tensor of such in the dtype of `like`."""
    if not isinstance(value, Tensor):
        number = check_number(name, value, above=0)
        if number < torch.finfo(like.dtype).smallest_normal:
            raise ValueError(f"{name} must not be so near to 0 in {like.dtype}, got {value}")
        return number
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


def warn_of_latents(name: str, z: Tensor, *, stacklevel: int = 3) -> None:
    """Warn where z comes from a ReLU, by its graph, at no cost; by its values without a graph."""
    if torch.compiler.is_compiling():
        return
    node = z.grad_fn
    while node is not None and _SAME_VALUES.match(node.name()):
        node = node.next_functions[0][0]
    if node is None:
        known = not z.requires_grad and not torch._C._are_functorch_transforms_active()
        rectified = (
            known and z.numel() > 0 and bool((z >= 0).all() & ((z == 0).float().mean() > 0.2))
        )
    else:
        rectified = node.name().startswith("ReluBackward")
    if rectified:
        warnings.warn(
            f"{name} seem to be latents behind a ReLU: many are 0, and none is below. A unit that "
            "is off gets no gradient there: give what the layer returns, before the ReLU, such as "
            "output.pre_activations",
            UserWarning,
            stacklevel=stacklevel,
        )


@contextmanager
def rest_of_epoch(is_rest: bool) -> Iterator[None]:
    """The block handles an epoch's last batch, if so, which may have few rows."""
    token = _IS_REST.set(is_rest)
    try:
        yield
    finally:
        _IS_REST.reset(token)


def warn_of_few_rows(rho: float | Tensor, rows: int, units: int, *, stacklevel: int = 3) -> None:
    """Warn where a unit is on, or off, for fewer than 5 rows of a batch: it settles below rho.

    Fewer than 32 rows are taken for a toy; an epoch's last batch may be small.
    """
    if rows < 32 or torch.compiler.is_compiling() or _IS_REST.get():
        return
    if isinstance(rho, Tensor):
        rho = float(torch.minimum(rho, 1 - rho).detach().min())
    rare = min(rho, 1 - rho) * (1 + 1e-6)  # as float32 may have rounded it
    if rare * rows >= 5:
        return
    swapped = f"; {units} units are seen, in the last dim: is it that of the rows?"
    warnings.warn(
        f"rho = {rho:g} of {rows} rows is {rho * rows:.3g} row(s): below 5, counts are so noisy "
        f"that units settle under rho. Give {ceil(5 / rare)} rows or more a batch, in parts with "
        f"backward_in_parts if need be{swapped if rows < units else ''}. It does no harm in an "
        "epoch's last batch alone",
        UserWarning,
        stacklevel=stacklevel,
    )
