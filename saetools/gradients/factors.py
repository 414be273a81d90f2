"""What the advice, and the reading of zeros, will ask of an operation's arguments."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saetools.gradients.tensors import State, flatten, state_of
from saetools.gradients.values import Operation

_SOFTMAXES = {"softmax", "log_softmax", "cross_entropy"}
_WITH_FACTOR = {"mul", "__rmul__", "mul_", "multiply", "div", "divide", "floor_divide"}
_HALVES = {torch.float16, torch.bfloat16}


def note_factors(
    operation: Operation,
    inputs: Sequence[Tensor],
    required: Sequence[bool],
    outputs: Sequence[Tensor],
    arguments: Any,
) -> None:
    """Note at the operation whether it works in half precision, and which factors are 0."""
    operation.half = not _HALVES.isdisjoint([t.dtype for t in (*inputs, *outputs)])
    if operation.name in _SOFTMAXES and inputs:
        operation.one_entry = 1 in inputs[0].shape[1:] or inputs[0].shape[:1] == (1,)
    if operation.name not in _WITH_FACTOR:
        return
    operation.numbers = tuple(
        item for item in flatten(arguments) if isinstance(item, int | float | str)
    )
    if 0 in operation.numbers:
        operation.masked = "one"
    for tensor, needs in zip(inputs, required, strict=True):
        if state_of(tensor) is State.ZERO:
            operation.zero_factor = True
            if not needs:
                operation.masked = "one" if tensor.numel() == 1 else "mask"
