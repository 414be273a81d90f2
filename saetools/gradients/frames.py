"""Whose line is it? Frames of the Python stack, from the operation outwards."""

import linecache
import os
import sys
import sysconfig
from enum import IntEnum
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

_TORCH = str(Path(torch.__file__).parent) + os.sep
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_HERE = str(Path(__file__).parent) + os.sep
_COMPILER = str(Path(torch.__file__).parent / "_dynamo" / "eval_frame.py")
_FUNCTION = str(Path(torch.__file__).parent / "autograd" / "function.py")
# Torch's own files through which a call passes before the tracer sees it.
_PLUMBING = tuple(
    _TORCH + name for name in ("overrides.py", "_tensor.py", "functional.py", "_jit_internal")
)
_MODULES = str(Path(torch.__file__).parent / "nn" / "modules")


COMPILED = (
    "trace_gradients cannot see inside torch.compile: trace the code before it is compiled, or "
    'call torch.compiler.set_stance("force_eager") in front of the block'
)


class _Owner(IntEnum):
    USER = 0
    PLUMBING = 1  # of the tracer, or of torch between the caller and the operation
    TORCH = 2
    MODULES = 3


_owners: dict[str, _Owner] = {}


def is_users(filename: str) -> bool:
    """Whether it is code of the user's, not of torch's or of this package's."""
    return _owner(filename) is _Owner.USER


def _owner(filename: str) -> _Owner:
    """Whose code it is; remembered, because it is asked at every operation."""
    if filename not in _owners:
        if filename.startswith((_HERE, *_PLUMBING)):
            _owners[filename] = _Owner.PLUMBING
        elif filename.startswith(_MODULES):
            _owners[filename] = _Owner.MODULES
        elif filename.startswith(_TORCH):
            _owners[filename] = _Owner.TORCH
        else:  # copy.deepcopy and its like are no more the user's code than torch is
            is_library = filename.startswith(_STDLIB) and "site-packages" not in filename
            _owners[filename] = _Owner.PLUMBING if is_library else _Owner.USER
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
    through: CodeType | None  # the function of torch's that the user called, if it was one
    direct: bool  # the user's own code called the operation, not torch
    layer: nn.Module | None  # the innermost layer of torch.nn between the two
    container: nn.Module | None  # the layer around that one, such as an nn.Sequential
    outer: FrameType | None  # the frame of that function

    @property
    def place(self) -> Place:
        """Its file and line."""
        return Place(self.frame.f_code.co_filename, self.frame.f_lineno)


def find_caller() -> Caller:
    """Who called the operation that is being looked at."""
    frame = sys._getframe(1)
    through, outer, direct = None, None, True
    layers: list[Any] = []
    while frame.f_back is not None:
        owner = _owner(frame.f_code.co_filename)
        if owner is _Owner.USER:
            break
        if owner is not _Owner.PLUMBING:
            through, outer, direct = frame.f_code, frame, False
            is_layer = owner is _Owner.MODULES and frame.f_code.co_name == "forward"
            if is_layer and len(layers) < 2:
                layers.append(frame.f_locals.get("self"))
        frame = frame.f_back
    layer, container = (*layers, None, None)[:2]
    return Caller(frame, through, direct, layer, container, outer)


def users_place() -> Place:
    """The line of the user's code that is being run."""
    return find_caller().place


def _outwards(frame: FrameType | None) -> Any:
    while frame is not None:
        yield frame
        frame = frame.f_back


def function_around() -> Place | None:
    """The line that applied the custom autograd Function being run, or None if there is none."""
    inside = False
    for frame in _outwards(sys._getframe(1)):
        filename = frame.f_code.co_filename
        if filename == _FUNCTION:
            inside = True
        elif inside and _owner(filename) is _Owner.USER:
            return Place(filename, frame.f_lineno)
    return None


def called_in(folder: str, function: str = "") -> bool:
    """Whether torch's code in `folder` (and there, `function`) surrounds the operation."""
    for frame in _outwards(sys._getframe(1)):
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
    if getattr(stance, "stance", "") == "force_eager":
        return False
    return any(
        frame.f_code.co_filename == _COMPILER
        and frame.f_code.co_name in ("compile_wrapper", "__call__")
        for frame in _outwards(sys._getframe(1))
    )
