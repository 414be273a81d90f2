"""Gradient accumulation whose penalty sees the frequency of the whole batch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from saetools.data.checks import check_function, check_returned
from saetools.frequency import BatchMean
from saetools.reuse.distributed import add_up, checked_mean, row_sums, with_share

Part = TypeVar("Part")


def backward_in_parts(
    model: nn.Module,
    parts: Iterable[Part],
    loss: Callable[[Part, BatchMean], Tensor],
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    group: "dist.ProcessGroup | None" = None,
) -> Tensor:
    """Add to the gradients what one backward pass through the loss of all parts together would.

    Two passes over the parts: one without a gradient, which gathers the means of the whole batch,
    and one that uses them. Dropout draws the same masks in both, and buffers, such as BatchNorm's
    statistics, are updated once. The loss of the whole batch is returned.

    Args:
        model: what `loss` calls. Where it is a DistributedDataParallel, gradients are exchanged
            with the last part only; keep the buffers of the first process.
        parts: the micro-batches, of equal size or not; kept in memory meanwhile.
        loss: called as loss(part, batch_mean), twice for each part, returns a scalar. It sends each
            mean over rows, the error as well as the frequency and a weight decay, through
            `batch_mean(mean, rows)`, and draws random numbers from torch alone.
        backward: called with each part's loss, e.g. `lambda loss: scaler.scale(loss).backward()`.
        group: as for `over_ranks`. The numbers of parts may differ; without rows, give one part of
            0.

    Example:
        >>> from saetools import SparseAutoencoder, frequency_penalty
        >>> model = SparseAutoencoder(seed=0)
        >>> def loss(part, batch_mean):
        ...     x, _, z = model(part)
        ...     error = batch_mean((x - part).square().mean(), len(part))
        ...     return error + frequency_penalty(z, rho=0.2, batch_mean=batch_mean)
        >>> whole = backward_in_parts(model, torch.rand(100, 20).split(32), loss)
    """
    check_function("loss", loss, such_as="lambda part, batch_mean: ...")
    check_function("backward", backward, such_as="torch.Tensor.backward")
    if isinstance(parts, Tensor) and parts.ndim < 3:
        raise TypeError("parts must be parts of a batch, got a tensor of rows: use x.split(rows)")
    parts = list(parts)
    if not parts:
        raise ValueError("parts must hold at least one part: where there are no rows, an empty one")
    no_sync = getattr(model, "no_sync", nullcontext)
    sums: list[list[Tensor]] = [[] for _ in parts]
    with torch.no_grad(), _unchanged(model), no_sync():
        for part, of_part in zip(parts, sums, strict=True):
            loss(part, partial(_gather, of_part))
    calls = [len(of_part) for of_part in sums]
    if min(calls) == 0 or len(set(calls)) > 1:
        needed = "loss must call batch_mean, and as often for each part"
        raise RuntimeError(f"{needed}, got {calls} calls")
    own = [torch.stack(of_parts).sum(0) for of_parts in zip(*sums, strict=True)]
    totals, ranks = add_up(own, group)
    for position, part in enumerate(parts, start=1):
        with nullcontext() if position == len(parts) else no_sync():
            cost = loss(part, partial(_share_next, iter(totals), ranks))
            backward(check_returned("loss", cost, (), "in batch_mean's means and sums"))
    return cost.detach()


def _gather(sums: list[Tensor], mean: Tensor, rows: int) -> Tensor:
    mean = checked_mean(mean, rows)
    sums.append(row_sums(mean, rows))
    return mean


def _share_next(totals: Iterator[Tensor], ranks: int, mean: Tensor, rows: int) -> Tensor:
    return with_share(checked_mean(mean, rows), ranks * rows, next(totals))


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Run the block on copies of the model's buffers, and put torch's random state back."""
    devices = {parameter.device for parameter in model.parameters()}
    cuda = [device for device in devices if device.type == "cuda"]
    mps = torch.mps.get_rng_state() if any(device.type == "mps" for device in devices) else None
    buffers = [(m, name, b) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
    with torch.random.fork_rng(cuda, device_type="cuda"):
        try:
            # Copies, as a buffer changed in place breaks a graph that has saved it.
            for module, name, buffer in buffers:
                setattr(module, name, buffer.clone())
            yield
        finally:
            for module, name, buffer in buffers:
                setattr(module, name, buffer)
            if mps is not None:
                torch.mps.set_rng_state(mps)
            # In an older torch it holds weights that were cast here, and so without a gradient.
            torch.clear_autocast_cache()
