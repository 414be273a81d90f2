"""Whose line is it? Frames of the Python stack, from the operation outwards."""

import linecache
import os
import sys
import sysconfig
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

_TORCH = str(Path(torch.__file__).parent) + os.sep
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_COMPILER = _TORCH + str(Path("_dynamo", "eval_frame.py"))
_FUNCTION = _TORCH + str(Path("autograd", "function.py"))
_MODULES = _TORCH + str(Path("nn", "modules"))
# Files through which a call passes before the tracer sees it.
_PLUMBING = (
    str(Path(__file__).parent) + os.sep,
    *(_TORCH + n for n in ("overrides.py", "_tensor.py", "functional.py", "_jit_internal")),
)
COMPILED = (
    "trace_gradients cannot see inside torch.compile: trace the code before it is compiled, or "
    'call torch.compiler.set_stance("force_eager") in front of the block'
)


class _Owner(IntEnum):
    USER = 0
    PLUMBING = 1  # of the tracer, of Python, or of torch between the caller and the operation
    TORCH = 2
    MODULES = 3


_owners: dict[str, _Owner] = {}


def _owner(filename: str) -> _Owner:
    """Whose code it is; remembered, because it is asked at every operation."""
    if filename not in _owners:
        # copy.deepcopy and its like are no more the user's code than torch is
        is_library = filename.startswith(_STDLIB) and "site-packages" not in filename
        if is_library or filename.startswith(_PLUMBING):
            _owners[filename] = _Owner.PLUMBING
        elif filename.startswith(_MODULES):
            _owners[filename] = _Owner.MODULES
        else:
            _owners[filename] = _Owner.TORCH if filename.startswith(_TORCH) else _Owner.USER
    return _owners[filename]


class Place(NamedTuple):
    """A line of the traced code."""

    filename: str
    lineno: int

    def shown(self) -> str:
        """The file relative to the working directory; a notebook cell has no name worth telling."""
        if f"ipykernel_{os.getpid()}" in self.filename or self.filename.startswith("<ipython"):
            return "notebook cell"
        try:
            return Path(os.path.relpath(self.filename)).as_posix()
        except ValueError:  # on another drive
            return self.filename

    def source(self) -> str:
        """The line itself."""
        return linecache.getline(self.filename, self.lineno).strip()


NOWHERE = Place("", 0)


class Caller(NamedTuple):
    """Who called an operation."""

    frame: FrameType  # the innermost one that is neither torch's nor this package's
    outer: FrameType | None  # the frame of torch's that the user called, if it was one
    layers: list[Any]  # of torch.nn between the two, the innermost first; at most two

    @property
    def place(self) -> Place:
        """The user's line."""
        return Place(self.frame.f_code.co_filename, self.frame.f_lineno)

    @property
    def through(self) -> CodeType | None:
        """The function of torch's that the user called."""
        return None if self.outer is None else self.outer.f_code

    @property
    def function(self) -> str:
        """Its name, or ""."""
        return "" if self.outer is None else self.outer.f_code.co_name


def find_caller() -> Caller:
    """Who called the operation that is being looked at."""
    frame, outer, layers = sys._getframe(1), None, list[Any]()
    while frame.f_back is not None:
        owner = _owner(frame.f_code.co_filename)
        if owner is _Owner.USER:
            break
        if owner is not _Owner.PLUMBING:
            outer = frame
            if owner is _Owner.MODULES and frame.f_code.co_name == "forward" and len(layers) < 2:
                layers.append(frame.f_locals.get("self"))
        frame = frame.f_back
    return Caller(frame, outer, layers)


def _outwards() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def function_around() -> Place | None:
    """The line that applied the custom autograd Function being run, or None if there is none."""
    inside = False
    for frame in _outwards():
        filename = frame.f_code.co_filename
        if filename == _FUNCTION:
            inside = True
        elif inside and _owner(filename) is _Owner.USER:
            return Place(filename, frame.f_lineno)
    return None


def called_in(folder: str, function: str = "") -> bool:
    """Whether torch's code in `folder` (and there, `function`) surrounds the operation."""
    for frame in _outwards():
        if _owner(frame.f_code.co_filename) is _Owner.USER:
            return False
        inside = frame.f_code.co_filename.startswith(_TORCH + folder)
        if inside and function in ("", frame.f_code.co_name):
            return True
    return False


def called_by_compiled_code() -> bool:
    """Whether a function made by torch.compile surrounds this call."""
    if "torch._dynamo" not in sys.modules:
        return False
    stance = getattr(torch._dynamo.eval_frame, "_stance", None)
    return getattr(stance, "stance", "") != "force_eager" and any(
        frame.f_code.co_filename == _COMPILER
        and frame.f_code.co_name in ("compile_wrapper", "__call__")
        for frame in _outwards()
    )


class Block(NamedTuple):
    """Where gradients were switched off."""

    op: str
    place: Place
    words: str
    by_user: bool = True


_SWITCHES = {"no_grad": "torch.no_grad", "set_grad_enabled": "torch.set_grad_enabled(False)"}


def switched_off(op: str = "torch.no_grad") -> Block:
    """The block whose first line, or call, has just switched gradients off."""
    for frame in _outwards():
        if frame.f_code.co_filename.endswith("grad_mode.py"):
            op = _SWITCHES.get(type(frame.f_locals.get("self")).__name__, op)
        elif frame.f_code.co_name == "decorate_context":
            code = getattr(frame.f_locals.get("func"), "__code__", None)
            if code is None:
                break
            place = Place(code.co_filename, code.co_firstlineno)
            words = f"the decorator @{op}() of {code.co_name}(), line {place.lineno}"
            return Block(op, place, words, _owner(code.co_filename) is _Owner.USER)
        elif _owner(frame.f_code.co_filename) is _Owner.USER:
            break
    caller = find_caller()
    through = caller.through
    outside = through is None or through.co_filename.endswith("grad_mode.py")
    return Block(op, caller.place, f"{op} of line {caller.place.lineno}", outside)
