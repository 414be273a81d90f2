"""What kind of call the tracer sees; and torch's own seams, calls that no mode can see."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import resolve_name

from saetools.gradients.frames import find_caller
from saetools.gradients.tensors import names


class Role(Enum):
    """What is to be done with a call."""

    PASS = auto()  # nothing: it computes no values
    OPERATION = auto()
    NUMBER = auto()  # values leave as Python or NumPy numbers
    BACKWARD = auto()
    GRAD_MODE = auto()
    GET_GRAD = auto()
    SET_GRAD = auto()
    SET_DATA = auto()
    COLLECTIVE = auto()


class Call(NamedTuple):
    """A function of torch's."""

    role: Role
    name: str  # the bare name
    op: str  # the public one
    in_place: bool  # it writes into its first argument


TO_NUMBERS = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__complex__"}
OF_FIRST_ALONE = {"type_as", "expand_as", "view_as", "reshape_as"}  # the other gives its shape
_IN_PLACE = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
_BACKWARD = (Tensor.backward, torch.autograd.backward, torch.autograd.grad)
_VIEWS = {"data", "T", "mT", "H", "mH", "real", "imag"}  # attributes that are tensors, computed
_VALUES_UNUSED = set(
    names(
        "size numel dim register_hook stride requires_grad_ retain_grad is_floating_point "
        "is_complex __len__ __format__ __repr__ __bool__ __hash__ __deepcopy__ element_size "
        "storage_offset data_ptr untyped_storage get_device "
        "register_post_accumulate_grad_hook nelement is_contiguous ndimension new_empty "
        "new_zeros new_ones new_full new_empty_strided _is_view has_names is_same_size "
        "is_set_to result_type"
    )
)
_PUBLIC = {"__float__": "float()", "__int__": "int()", "__array__": "numpy.asarray()"}
_PUBLIC |= {f"__{op}__": f"Tensor.{op}" for op in ("eq", "ne", "gt", "ge", "lt", "le")}
_calls: dict[Any, Call] = {}


def public_name(name: str) -> str:
    """The public name of an operation, from the name that torch resolves.

    >>> public_name("torch.Tensor.__gt__"), public_name("torch.Tensor.data.__get__")
    ('Tensor.gt', 'Tensor.data')
    """
    name = name.removesuffix(".__get__").removesuffix(".__set__")
    name = name.replace("torch.Tensor.", "Tensor.").replace("aten.", "torch.ops.aten.")
    return _PUBLIC.get(name.rpartition(".")[-1], name)


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
    op, role = public_name(full), Role.OPERATION
    if func in _BACKWARD:
        role = Role.BACKWARD
    elif name == "_set_grad_enabled":
        role = Role.GRAD_MODE
    elif full.endswith("__set__"):
        attribute = full.split(".")[-2]
        role = {"grad": Role.SET_GRAD, "data": Role.SET_DATA}.get(attribute, Role.PASS)
    elif full.endswith("__get__") and name not in _VIEWS:
        role = Role.GET_GRAD if name == "grad" else Role.PASS
    elif name in TO_NUMBERS:
        role = Role.NUMBER
    elif name in _VALUES_UNUSED or name.endswith("_like") or full.startswith("profiler."):
        role = Role.PASS
    elif str(getattr(func, "__module__", "")).startswith("torch.distributed"):
        role, op = Role.COLLECTIVE, f"torch.distributed.{name}"
    in_place = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
    return Call(role, name, op, in_place)


def as_user(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `func`; what it warns of is said of the user's line, as it is without a tracer."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = func(*args, **kwargs)
    for warning in caught:
        frame = find_caller().frame
        names = frame.f_globals
        registry = names.setdefault("__warningregistry__", {})
        where = (frame.f_code.co_filename, frame.f_lineno, names.get("__name__"), registry)
        warnings.warn_explicit(warning.message, warning.category, *where)
    return result


Report = Callable[[str, tuple[Any, ...], Any], None]
PARAMETER, INFERENCE = "torch.nn.Parameter", "torch.inference_mode"
# TorchScript runs without Python, nn.Parameter(tensor) leaves the history behind in silence, and
# inference_mode does not say when it begins: for the time of a block these report.
_SEAMS: tuple[tuple[Any, str, str], ...] = (
    (torch._C.ScriptFunction, "__call__", "a torch.jit.script function"),
    (torch._C.ScriptMethod, "__call__", "a torch.jit.script module"),
    (torch.nn.Parameter, "__new__", PARAMETER),
    (torch.autograd.Variable, "__new__", "torch.autograd.Variable"),
    (torch.inference_mode, "__enter__", INFERENCE),
    (torch.inference_mode, "__exit__", INFERENCE + " ends"),
)


def _reporting(original: Any, op: str, report: Report) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        report(op, (args, kwargs), result)
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
