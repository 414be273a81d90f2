"""Which block or decorator switched gradients off?"""

import linecache
import re
import sys
from types import CodeType, FrameType

import torch

from saetools.gradients.frames import Place, find_caller

_INFERENCE = re.compile(r"\binference_mode\b")
_SWITCHES = {
    "no_grad": "torch.no_grad",
    "inference_mode": "torch.inference_mode",
    "set_grad_enabled": "torch.set_grad_enabled(False)",
}
_FAR = 200  # lines; a block longer than that is not searched for its first line


class Block:
    """Where gradients were switched off."""

    def __init__(self, op: str, place: Place, words: str, is_users: bool = True) -> None:
        self.op, self.place, self.words, self.is_users = op, place, words, is_users


def switched_off() -> Block:
    """The block whose first line, or call, has just switched gradients off."""
    frame: FrameType | None = sys._getframe(1)
    op = "torch.no_grad"
    while frame is not None and "_contextlib.py" not in frame.f_code.co_filename:
        if frame.f_code.co_filename.endswith("grad_mode.py"):
            op = _SWITCHES.get(type(frame.f_locals.get("self")).__name__, op)
        elif not frame.f_code.co_filename.startswith(str(torch.__path__[0])):
            break
        frame = frame.f_back
    if frame is not None and frame.f_code.co_name == "decorate_context":
        return _decorated(op, frame)
    caller = find_caller()
    words = f"{op} of line {caller.place.lineno}"
    outside = caller.through is None or caller.through.co_filename.endswith("grad_mode.py")
    return Block(op, caller.place, words, outside)


def _decorated(op: str, frame: FrameType) -> Block:
    code: CodeType | None = getattr(frame.f_locals.get("func"), "__code__", None)
    if code is None:
        return Block(op, find_caller().place, f"the decorator @{op}")
    place = Place(code.co_filename, code.co_firstlineno)
    is_users = not code.co_filename.startswith(str(torch.__path__[0]))
    words = f"the decorator @{op}() of {code.co_name}(), line {place.lineno}"
    return Block(op, place, words, is_users)


def inference_block() -> Block:
    """The inference_mode block that surrounds the operation; torch does not say when it begins."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "decorate_context":
            return _decorated("torch.inference_mode", frame)
        frame = frame.f_back
    place = find_caller().place
    first = max(place.lineno - _FAR, 0)
    for lineno in range(place.lineno, first, -1):
        if _INFERENCE.search(linecache.getline(place.filename, lineno)):
            place = Place(place.filename, lineno)
            break
    op = "torch.inference_mode"
    return Block(op, place, f"{op} of line {place.lineno}")
