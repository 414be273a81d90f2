"""What can be read of tensors and their gradients, and what a zero among them means."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saetools.gradients import advice

ENOUGH_ROWS = 32  # with fewer, a healthy ReLU leaves some unit without a gradient by chance


def flatten(value: Any) -> Iterator[Any]:
    """What stands in lists, tuples and dicts, however deep."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from flatten(item)
    elif isinstance(value, dict):
        yield from flatten(list(value.values()))
    else:
        yield value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors among them."""
    return [item for item in flatten(value) if isinstance(item, Tensor)]


def nodes_behind(start: Sequence[Any], stop: Callable[[Any], bool]) -> Iterator[Any]:
    """The autograd nodes from `start` towards the leaves, each once, not beyond `stop`."""
    todo, seen = list(start), set()
    while todo:
        node = todo.pop()
        if node is None or node in seen or stop(node):
            continue
        seen.add(node)
        yield node
        todo += [following for following, _ in node.next_functions]


def needs_gradient(tensor: Tensor) -> bool:
    """Whether a gradient flows through it, also where torch.func has wrapped it."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor) and not tensor.requires_grad:
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.requires_grad


def grad_fn_of(tensor: Tensor) -> Any:
    """Its autograd node, or None."""
    try:
        return tensor.grad_fn
    except RuntimeError:  # a view from a no_grad block whose base was written to has none to tell
        return None


def given(values: Sequence[Tensor | None]) -> list[Tensor]:
    """Those of the gradients that are there."""
    return [value.detach() for value in values if value is not None]


def is_readable(tensor: Tensor) -> bool:
    """Whether its values can be looked at: a plain tensor, with values, in a usual dtype."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and tensor.layout == torch.strided
        and not (tensor.is_meta or tensor.is_nested or tensor.is_quantized)
        and (tensor.dtype.itemsize > 1 or not tensor.is_floating_point())
    )


def is_finite(tensor: Tensor) -> bool:
    """Whether it holds no NaN and no infinity, or cannot be looked at."""
    # Detached, because a checkpoint counts what is saved for the backward pass.
    return not is_readable(tensor) or bool(tensor.detach().isfinite().all())


def has_nan(tensor: Tensor) -> bool:
    """Whether it can be looked at and holds NaN."""
    return is_readable(tensor) and bool(tensor.detach().isnan().any())


def was_finite(args: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Whether all that went in was finite; what was changed in place is taken to have been."""
    numbers = (item for item in flatten(args) if isinstance(item, float))
    others = (tensor for tensor in inputs if all(tensor is not out for out in outputs))
    return all(map(math.isfinite, numbers)) and all(map(is_finite, others))


def share_not_finite(left: Sequence[Tensor]) -> float:
    """The share of the entries of gradients that are NaN or infinite."""
    wrong = sum(int((~gradient.isfinite()).sum()) for gradient in left)
    return wrong / sum(gradient.numel() for gradient in left) if wrong else 0.0


def units_to_check(name: str, args: tuple[Any, ...], inputs: Sequence[Tensor]) -> str:
    """What must get a gradient here: "all" (anything at all), each "unit", each "entry", or ""."""
    if not advice.can_be_flat(name):
        return ""  # elsewhere a zero is what the numbers are: a factor of 0, a loss at its best
    if advice.is_a_mask(name):
        is_mask = "where" in name or "mask" in name or any(t.dtype == torch.bool for t in inputs)
        return "all" if is_mask else ""
    if name == "__setitem__" and any(tensor.requires_grad for tensor in tensors_in(args[2:])):
        return ""  # what is written may be made from what it overwrites
    if inputs[0].ndim == 1:
        return "entry" if _averages_over_rows(grad_fn_of(inputs[0])) else "all"
    return "all" if name == "__setitem__" else "unit"


def _averages_over_rows(node: Any) -> bool:
    """Whether a vector is one number a unit: a sum or mean over dim 0, a few steps ago."""
    for _ in range(4):
        if node is None or hasattr(node, "variable"):
            return False
        if node.name() in ("MeanBackward1", "SumBackward1"):
            return 0 in node._saved_dim
        node = node.next_functions[0][0] if node.next_functions else None
    return False


def share_zeroed(units: str, came: Sequence[Tensor], left: Sequence[Tensor]) -> float:
    """The share of units (or of everything) at which a gradient arrives and only zeros leave."""
    if not units or not any(g.any() for g in came) or not any(g.numel() for g in left):
        return 0.0
    if not any(g.any() for g in left):
        return 1.0
    alike = [g for g in left if g.shape == came[0].shape]
    if units == "all" or len(came) != 1 or not alike or came[0].ndim == 0:
        return 0.0
    arrives, leaves = came[0] != 0, torch.stack([g != 0 for g in alike]).any(0)
    if units == "entry":
        return float((arrives & ~leaves).float().mean())
    unit = 1 if arrives.ndim in (4, 5) else arrives.ndim - 1
    rows = [dim for dim in range(arrives.ndim) if dim != unit]
    lost = (arrives.sum(rows) >= ENOUGH_ROWS) & (leaves.sum(rows) == 0)
    return float(lost.float().mean())
