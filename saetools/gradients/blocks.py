"""Which block or decorator switched gradients off?"""

import linecache
import re
import sys
from types import CodeType, FrameType

from saetools.gradients.frames import Place, find_caller, is_users

_INFERENCE = re.compile(r"\binference_mode\b")
_SWITCHES = {
    "no_grad": "torch.no_grad",
    "inference_mode": "torch.inference_mode",
    "set_grad_enabled": "torch.set_grad_enabled(False)",
}
_FAR = 200  # lines; a block longer than that is not searched for its first line


class Block:
    """Where gradients were switched off."""

    def __init__(self, op: str, place: Place, words: str, by_user: bool = True) -> None:
        self.op, self.place, self.words, self.by_user = op, place, words, by_user


def switched_off() -> Block:
    """The block whose first line, or call, has just switched gradients off."""
    frame: FrameType | None = sys._getframe(1)
    op = "torch.no_grad"
    while frame is not None and not is_users(frame.f_code.co_filename):
        if frame.f_code.co_filename.endswith("grad_mode.py"):
            op = _SWITCHES.get(type(frame.f_locals.get("self")).__name__, op)
        elif frame.f_code.co_name == "decorate_context":
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
    words = f"the decorator @{op}() of {code.co_name}(), line {place.lineno}"
    return Block(op, place, words, is_users(code.co_filename))


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
