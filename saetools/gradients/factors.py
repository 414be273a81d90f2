"""What the advice, and the reading of zeros, will ask of an operation's arguments."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saetools.gradients.before import Before
from saetools.gradients.flow import PRODUCTS
from saetools.gradients.tensors import flatten, is_leaf
from saetools.gradients.values import Operation

_SOFTMAXES = {"softmax", "log_softmax", "cross_entropy"}
_SCALINGS = {"mul", "__rmul__", "mul_", "multiply", "div", "divide", "floor_divide"}
_HALVES = {torch.float16, torch.bfloat16}


def note_factors(
    operation: Operation,
    inputs: Sequence[Tensor],
    before: Before,
    outputs: Sequence[Tensor],
    arguments: Any,
) -> None:
    """Note at the operation whether it works in half precision, and which factors are 0."""
    operation.half = not _HALVES.isdisjoint([t.dtype for t in (*inputs, *outputs)])
    if operation.name in _SOFTMAXES and inputs:
        operation.one_entry = 1 in inputs[0].shape[1:] or inputs[0].shape[:1] == (1,)
    for tensor, needs, value in zip(inputs, before.required, before.values, strict=True):
        is_zero = value.is_zero or (tensor.dtype == torch.bool and not bool(tensor.any()))
        if is_zero and not (needs and is_leaf(tensor)):  # a leaf may have moved since
            operation.zero_factor = True
            if not needs and (operation.name in _SCALINGS or operation.name in PRODUCTS):
                operation.masked = "one" if tensor.numel() == 1 else "mask"
    if operation.name in _SCALINGS:
        operation.numbers = tuple(
            item for item in flatten(arguments) if isinstance(item, int | float | str)
        )
        if 0 in operation.numbers:
            operation.masked = "one"
