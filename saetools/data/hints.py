"""Warnings of what is no error, and seldom meant."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import ceil
from typing import Any

import torch
from torch import Tensor

_SAME_VALUES = re.compile(  # names of autograd's nodes that hand on the values they are given
    "(Alias|Clone|Expand|Permute|ReshapeAlias|Select|Slice|Squeeze|ToCopy|Transpose|T|Unsafe"
    "View|Unsqueeze|View|Index|IndexSelect)Backward"
)
_IS_REST = ContextVar("_IS_REST", default=False)
_COPIES = re.compile("(Alias|Clone|ToCopy)Backward")
_RECTIFIES, _BOUNDS = re.compile("ReluBackward"), re.compile("(Hardtanh|Clamp|ClampMin)Backward")
_ALWAYS_ABOVE = re.compile("(Sigmoid|Softmax|Softplus)Backward")
_CHANNELS = re.compile(r"\w*(Convolution|BatchNorm|InstanceNorm|GroupNorm)\w*Backward")


def _made_by(z: Tensor, passed: "re.Pattern[str]") -> Any:
    """The node of the graph that made z, behind those that are passed."""
    node = z.grad_fn
    while node is not None and passed.match(node.name()):
        node = node.next_functions[0][0]
    return node


def warn_of_latents(name: str, z: Tensor, *, stacklevel: int = 3) -> None:
    """Warn where z comes from an activation without values below 0.

    By its graph, at no cost; without a graph, a ReLU by its values.
    """
    if torch.compiler.is_compiling():
        return
    node = _made_by(z, _SAME_VALUES)
    by = "" if node is None else node.name()
    known = z.numel() > 0 and not torch._C._are_functorch_transforms_active()
    rectified = _RECTIFIES.match(by) is not None
    if known and (_BOUNDS.match(by) or not (node or z.requires_grad)):
        rectified = bool((z >= 0).all() & ((z == 0).float().mean() > 0.2))
    if rectified:
        off = "A unit that is off gets no gradient there"
        before, said = "ReLU", f"behind a ReLU: many are 0, and none is below. {off}"
    elif _ALWAYS_ABOVE.match(by):
        before = "activation"
        said = f"behind {by.partition('Backward')[0]}: all are above 0, and no unit is ever off"
    else:
        return
    warnings.warn(
        f"{name} seem to be latents {said}: give what the layer returns, before the {before}, such "
        "as output.pre_activations",
        UserWarning,
        stacklevel=stacklevel,
    )


def warn_of_channels(name: str, z: Tensor, *, stacklevel: int = 3) -> None:
    """Warn where the last dim of z is no dim of units: a convolution's are the channels."""
    if torch.compiler.is_compiling() or z.ndim < 3:
        return
    node = _made_by(z, _COPIES)
    if node is not None and _CHANNELS.match(node.name()):
        warnings.warn(
            f"{name} come from {node.name().partition('Backward')[0]} with the shape "
            f"{tuple(z.shape)}, and the last dim is taken for the units: if they are the channels, "
            f"give pool_rows(z, units_dim=1), or dim={(0, *range(2, z.ndim))}",
            UserWarning,
            stacklevel=stacklevel,
        )


@contextmanager
def rest_of_epoch(is_rest: bool) -> Iterator[None]:
    """The block handles an epoch's last batch, if so, which may have few rows."""
    token = _IS_REST.set(is_rest)
    try:
        yield
    finally:
        _IS_REST.reset(token)


def warn_of_few_rows(rho: float | Tensor, rows: int, units: int, *, stacklevel: int = 3) -> None:
    """Warn where a unit is on, or off, for fewer than 5 rows of a batch: it settles below rho.

    Fewer than 32 rows are taken for a toy; an epoch's last batch may be small.
    """
    if rows < 32 or torch.compiler.is_compiling() or _IS_REST.get():
        return
    if isinstance(rho, Tensor):
        rho = float(torch.minimum(rho, 1 - rho).detach().min())
    rare = min(rho, 1 - rho) * (1 + 1e-6)  # as float32 may have rounded it
    if rare * rows >= 5:
        return
    swapped = f"; {units} units are seen, in the last dim: is it that of the rows?"
    warnings.warn(
        f"rho = {rho:g} of {rows} rows is {rho * rows:.3g} row(s): below 5, counts are so noisy "
        f"that units settle under rho. Give {ceil(5 / rare)} rows or more a batch, in parts with "
        f"backward_in_parts if need be{swapped if rows < units else ''}. It does no harm in an "
        "epoch's last batch alone",
        UserWarning,
        stacklevel=stacklevel,
    )
