"""What can be read of a tensor cheaply, without a trace in its graph."""

import cmath
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn

names = str.split  # a table of names, as one text


class State(IntEnum):
    """What a gradient, or a value, is made of."""

    NONE = 0  # there is none
    EMPTY = 1  # no entries
    ZERO = 2  # nothing but zeros
    SOME = 3  # finite, and not all zero; or it cannot be looked at
    BAD = 4  # NaN or infinity among the entries


def flatten(value: Any) -> Iterator[Any]:
    """What stands in lists, tuples and dicts, however deep."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from flatten(item)
    else:
        yield value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors among them."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return []
    found: list[Tensor] = []
    for item in value:
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, list | tuple | dict):
            found += tensors_in(item)
    return found


def is_wrapped(tensor: Tensor) -> bool:
    """Whether torch.func has wrapped it, so that its values are not there to be read."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def needs_gradient(tensor: Tensor) -> bool:
    """Whether a gradient flows through it, also where torch.func has wrapped it."""
    while not tensor.requires_grad and is_wrapped(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.requires_grad


def grad_fn_of(tensor: Tensor) -> Any:
    """Its autograd node, or None."""
    try:
        return tensor.grad_fn
    except RuntimeError:  # a view from a no_grad block whose base was written to has none to tell
        return None


def is_leaf(tensor: Tensor) -> bool:
    """Whether no operation made it, as far as gradients know."""
    return not tensor.requires_grad or grad_fn_of(tensor) is None


def is_readable(tensor: Tensor) -> bool:
    """Whether its values can be looked at: a plain tensor, with values, in a usual dtype."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and not (tensor.is_meta or tensor.is_nested or tensor.is_quantized)
        and (tensor.dtype.itemsize > 1 or not tensor.is_floating_point())
        and not is_wrapped(tensor)
    )


def has_slope(tensor: Tensor) -> bool:
    """Whether its dtype can carry a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()


def is_bad(tensor: Tensor) -> bool:
    """Whether it holds NaN or infinity; False if it cannot be looked at."""
    return has_slope(tensor) and state_of(tensor) is State.BAD


def has_nan(tensor: Tensor) -> bool:
    """Whether it holds NaN; False if it cannot be looked at."""
    return is_readable(tensor) and has_slope(tensor) and bool(tensor.detach().isnan().any())


def state_of(tensor: Tensor | None) -> State:
    """What it is made of.

    >>> [state_of(torch.tensor(v)).name for v in ([], [0.0], [1.0, -1.0], [float("inf")])]
    ['EMPTY', 'ZERO', 'SOME', 'BAD']
    """
    if tensor is None:
        return State.NONE
    if tensor.is_sparse:
        tensor = tensor.detach().coalesce().values()
    if not is_readable(tensor):
        return State.SOME
    if tensor.numel() == 0:
        return State.EMPTY
    values = tensor.detach()  # a checkpoint counts what is saved for the backward pass
    if has_slope(values):  # one sum tells most of the time
        total = values.sum().item()
        if not cmath.isfinite(total) and not bool(values.isfinite().all()):
            return State.BAD
        if total != 0:
            return State.SOME
    return State.SOME if bool(values.any()) else State.ZERO
