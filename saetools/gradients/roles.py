"""What kind of call the tracer sees: told once for each function of torch."""

from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import resolve_name

from saetools.gradients.advice import public_name


class Role(Enum):
    """What is to be done with a call."""

    PASS = 0  # nothing: it computes no values
    OPERATION = 1
    NUMBER = 2  # values leave as Python or NumPy numbers
    BACKWARD = 3
    GRAD_MODE = 4
    GET_GRAD = 5
    SET_GRAD = 6
    SET_DATA = 7
    COLLECTIVE = 8


class Call(NamedTuple):
    """A function of torch's."""

    role: Role
    name: str  # the bare name
    op: str  # the public one


TO_NUMBERS = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__complex__"}
_IN_PLACE = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
_BACKWARD = (Tensor.backward, torch.autograd.backward, torch.autograd.grad)
_VIEWS = {"data", "T", "mT", "H", "mH", "real", "imag"}  # attributes that are tensors, computed
_VALUES_UNUSED = {
    *("size", "numel", "dim", "register_hook", "stride"),
    *("requires_grad_", "retain_grad", "is_floating_point", "is_complex", "__len__", "__format__"),
    *(
        "__repr__",
        "__bool__",
        "element_size",
        "storage_offset",
        "data_ptr",
        "untyped_storage",
        "get_device",
    ),
    *("register_post_accumulate_grad_hook", "nelement", "is_contiguous", "ndimension", "__hash__"),
    *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"),
    *("_is_view", "has_names", "is_same_size", "is_set_to", "result_type", "__deepcopy__"),
}
OF_FIRST_ALONE = {"type_as", "expand_as", "view_as", "reshape_as"}  # the other gives its shape
_calls: dict[Any, Call] = {}


def is_in_place(name: str) -> bool:
    """Whether an operation, by its bare name, writes into its first argument."""
    return name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def call_of(func: Any) -> Call:
    """What kind of call it is; remembered, since resolve_name is slow and not unseen."""
    call = _calls.get(func)
    if call is None:
        call = _calls[func] = _look_at(func)
    return call


def _look_at(func: Any) -> Call:
    full = str(resolve_name(func) or getattr(func, "__name__", ""))
    if isinstance(func, torch._ops.OpOverload):
        full = full.rpartition(".")[0]
    name = full.removesuffix(".__get__").rpartition(".")[-1]
    op = public_name(full)
    role = Role.OPERATION
    if func in _BACKWARD:
        role = Role.BACKWARD
    elif name == "_set_grad_enabled":
        role = Role.GRAD_MODE
    elif full.endswith("__set__"):
        attribute = full.split(".")[-2]
        role = {"grad": Role.SET_GRAD, "data": Role.SET_DATA}.get(attribute, Role.PASS)
        op = public_name(full.removesuffix(".__set__"))
    elif full.endswith("__get__") and name not in _VIEWS:
        role = Role.GET_GRAD if name == "grad" else Role.PASS
    elif name in TO_NUMBERS:
        role = Role.NUMBER
    elif name in _VALUES_UNUSED or name.endswith("_like") or full.startswith("profiler."):
        role = Role.PASS
    elif str(getattr(func, "__module__", "")).startswith("torch.distributed"):
        role, op = Role.COLLECTIVE, f"torch.distributed.{name}"
    return Call(role, name, op)
