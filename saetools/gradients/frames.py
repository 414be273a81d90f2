"""Whose line is it? Frames of the Python stack, from the operation outwards."""

import linecache
import os
import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch


def _inside(name: str) -> str:
    return str(Path(torch.__file__).parent / name)


_TORCH = _inside("") + os.sep
_HERE = str(Path(__file__).parent) + os.sep
# Torch's own files through which a call passes before the tracer sees it.
_PLUMBING = tuple(
    map(
        _inside,
        ("overrides.py", "_tensor.py", "functional.py", "nn/functional.py", "_jit_internal"),
    )
)
# Code in which a tensor that requires a gradient is used without one for good reason.
_LIBRARY = tuple(map(_inside, ("autograd/function.py", "utils/checkpoint.py", "optim", "amp")))
_COMPILER = _inside("_dynamo/eval_frame.py")


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


def users_frame() -> FrameType:
    """The innermost frame that is neither torch's nor this package's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_TORCH, _HERE)):
        frame = frame.f_back
    return frame


def users_place() -> Place:
    """Its file and line."""
    frame = users_frame()
    return Place(frame.f_code.co_filename, frame.f_lineno)


def called_by_library() -> bool:
    """Whether torch itself made this call, or a custom Function or a checkpoint surrounds it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((_HERE, *_PLUMBING)):
        frame = frame.f_back
    if frame is not None and frame.f_code.co_filename.startswith(_TORCH):
        return True
    while frame is not None and not frame.f_code.co_filename.startswith(_LIBRARY):
        frame = frame.f_back
    return frame is not None


def called_by_compiled_code() -> bool:
    """Whether a function made by torch.compile surrounds this call."""
    frame: FrameType | None = sys._getframe(1) if "torch._dynamo" in sys.modules else None
    while frame is not None and not frame.f_code.co_filename.startswith(_COMPILER):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name in ("compile_wrapper", "__call__")
