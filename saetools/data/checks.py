"""Checks of arguments, so that every error names the argument, the value and what is allowed."""

import math
from numbers import Integral, Real

import torch
from torch import Tensor, nn


def check_tensor(
    name: str, value: object, *, dims: int, rows: int = 1, may_be_empty: bool = False
) -> Tensor:
    """`value` as a floating tensor of at least `dims` dims, none of them empty."""
    if not isinstance(value, Tensor):
        advice = f": use torch.from_numpy({name})" if type(value).__name__ == "ndarray" else ""
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}{advice}")
    if not value.is_floating_point():
        advice = "" if value.is_complex() else f": use {name}.float()"
        raise TypeError(f"{name} must have a floating dtype, got {value.dtype}{advice}")
    if value.ndim < dims:
        raise ValueError(f"{name} must have at least {dims} dims, got shape {tuple(value.shape)}")
    if value.numel() == 0:
        if may_be_empty and value.shape[-1] > 0:  # of rows, not of units
            return value
        raise ValueError(f"{name} must not be empty, got shape {tuple(value.shape)}")
    if dims >= 2 and value.shape[-2] < rows:
        raise ValueError(f"{name} must have at least {rows} rows, got shape {tuple(value.shape)}")
    return value


def check_like(name: str, value: Tensor, model: nn.Module) -> Tensor:
    """`value`, if it has the dtype and the device of the model's parameters."""
    parameter = next(model.parameters(), value)
    # Inside a block of autocast dtypes may differ.
    same = value.dtype == parameter.dtype or torch.is_autocast_enabled(value.device.type)
    if not same or value.device != parameter.device:
        wanted, got = (f"{each.dtype} on {each.device}" for each in (parameter, value))
        raise ValueError(f"{name} must be as the model is, {wanted}, got {got}: use {name}.to(...)")
    return value


def check_finite(name: str, value: Tensor) -> Tensor:
    """`value`, if it holds no NaN and no infinity."""
    bad = ~torch.isfinite(value)
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name} must be finite, got {value[where].item()} at {where} "
            f"and {int(bad.sum())} such value(s) in all"
        )
    return value


def check_range(name: str, value: Tensor, low: float, high: float, *, advice: str = "") -> Tensor:
    """`value`, if it lies in [low, high]."""
    smallest, largest = value.min().item(), value.max().item()
    if smallest < low or largest > high:
        raise ValueError(
            f"{name} must lie in [{low:g}, {high:g}], "
            f"got values from {smallest:.9g} to {largest:.9g}" + (f": {advice}" if advice else "")
        )
    return value


def check_rho(rho: object, *, like: Tensor, shape: torch.Size | None = None) -> Tensor:
    """`rho`, a number or tensor strictly between 0 and 1, in the dtype and on the device of `like`.

    It is checked in that dtype, where a number near 0 or 1 may be rounded to it. Tensors are not
    checked inside a compiled function, which cannot depend on their values. With a shape, a
    tensor must broadcast against it.
    """
    if isinstance(rho, Tensor):
        if shape is not None and not _broadcast(rho.shape, shape):
            raise ValueError(
                f"rho must broadcast against the units, shape {tuple(shape)}, "
                f"got shape {tuple(rho.shape)}"
            )
        target = rho.to(like)
        compiled = torch.compiler.is_compiling()
        least = torch.finfo(like.dtype).smallest_normal  # 1 / rho overflows below it
        if not compiled and not ((target >= least) & (target < 1)).all():
            raise ValueError(f"rho must lie strictly between 0 and 1, got {rho}")
        return target
    if isinstance(rho, bool) or not isinstance(rho, Real):
        raise TypeError(f"rho must be a number or a tensor, got {type(rho).__name__}")
    limits = torch.finfo(like.dtype)
    if not limits.smallest_normal <= float(rho) <= 1 - limits.eps / 2:
        rounded = f", too near to an end for {like.dtype}" if 0 < float(rho) < 1 else ""
        raise ValueError(f"rho must lie strictly between 0 and 1, got {rho}{rounded}")
    return torch.as_tensor(rho, dtype=like.dtype, device=like.device)


def _broadcast(one: torch.Size, other: torch.Size) -> bool:
    pairs = zip(reversed(one), reversed(other), strict=False)
    return all(a == b or 1 in (a, b) for a, b in pairs)


def check_positive(name: str, value: object, *, like: Tensor | None = None) -> float | Tensor:
    """`value`, a finite number greater than 0, or a tensor of such in the dtype of `like`."""
    if like is None or not isinstance(value, Tensor):
        number = check_number(name, value, above=0)
        if like is not None and number < torch.finfo(like.dtype).smallest_normal:
            raise ValueError(f"{name} must not be so near to 0 in {like.dtype}, got {value}")
        return number
    value = value.to(like)
    if not torch.compiler.is_compiling() and not ((value > 0) & value.isfinite()).all():
        raise ValueError(f"{name} must be finite and greater than 0, got {value}")
    return value


def check_count(name: str, value: object, *, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_number(
    name: str, value: object, *, above: float = -math.inf, minimum: float = -math.inf
) -> float:
    """`value` as a finite float that is greater than `above` and at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value <= above or value < minimum:
        bound = f"greater than {above:g}" if above > -math.inf else f"at least {minimum:g}"
        raise ValueError(f"{name} must be finite and {bound}, got {value}")
    return float(value)
