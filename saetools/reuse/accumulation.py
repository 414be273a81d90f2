"""Gradient accumulation whose penalty sees the frequency of the whole batch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from saetools.frequency import BatchMean
from saetools.reuse.distributed import checked_mean, count_ranks, row_sums, with_share

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

    Two passes over the parts: one without a gradient, which gathers the means of the whole
    batch, and one that uses them. The first leaves no trace: the second draws the same dropout
    masks, and buffers, such as BatchNorm's statistics, are updated once. (Under
    DistributedDataParallel, keep the buffers of the first process.)

    Args:
        model: what `loss` calls. If it has a method no_sync, as DistributedDataParallel has,
            the processes exchange gradients with the last part only.
        parts: the micro-batches, of equal size or not; kept in memory meanwhile.
        loss: called as loss(part, batch_mean), twice for each part, returns a scalar. It sends
            each mean over rows, the error as well as the frequency, through
            `batch_mean(mean, rows)`, which returns the mean over the rows of all parts;
            `frequency_penalty(..., batch_mean=batch_mean)` does so. A weight decay goes through
            it too, with the part's rows: it would count once per part otherwise. Random numbers
            are drawn from torch alone.
        backward: called with each part's loss, for instance `lambda loss:
            scaler.scale(loss).backward()`.
        group: the processes that share the batch, as for `over_ranks`. Their numbers of parts may
            differ; a process that has no rows gives a part without rows.

    Returns:
        The loss of the whole batch, a scalar without a gradient.

    Example:
        >>> from saetools import SparseAutoencoder, frequency_penalty
        >>> model = SparseAutoencoder(seed=0)
        >>> def loss(part, batch_mean):
        ...     output = model(part)
        ...     error = batch_mean((output.reconstruction - part).square().mean(), len(part))
        ...     z = output.pre_activations
        ...     return error + frequency_penalty(z, rho=0.2, batch_mean=batch_mean)
        >>> cost = backward_in_parts(model, torch.rand(100, 20).split(32), loss)
        >>> cost.requires_grad, model.encoder[0].weight.grad.shape
        (False, torch.Size([80, 20]))
    """
    parts = list(parts)
    if not parts:
        raise ValueError("parts must hold at least one part: where there are no rows, an empty one")
    ranks = count_ranks(group)
    no_sync = getattr(model, "no_sync", nullcontext)
    with torch.no_grad(), _unchanged(model), no_sync():
        sums = [_gathered(part, loss) for part in parts]
    calls = [len(of_part) for of_part in sums]
    if calls[0] == 0 or len(set(calls)) > 1:
        raise RuntimeError(
            f"loss must call batch_mean, and as often for each part, got {calls} calls"
        )
    totals = [torch.stack(of_parts).sum(0) for of_parts in zip(*sums, strict=True)]
    if ranks > 1:  # one exchange for all of them, however many parts each process has
        joined = torch.cat(totals)
        dist.all_reduce(joined, group=group)
        totals = list(joined.split([len(total) for total in totals]))
    for position, part in enumerate(parts, start=1):
        with nullcontext() if position == len(parts) else no_sync():
            cost = loss(part, partial(_with_next, iter(totals), ranks))
            backward(cost)
    return cost.detach()


def _gathered(part: Part, loss: Callable[[Part, BatchMean], Tensor]) -> list[Tensor]:
    """The `row_sums` of each mean that loss hands over, in its order."""
    sums: list[Tensor] = []

    def batch_mean(mean: Tensor, rows: int) -> Tensor:
        mean = checked_mean(mean, rows)
        sums.append(row_sums(mean, rows))
        return mean

    loss(part, batch_mean)
    return sums


def _with_next(totals: Iterator[Tensor], ranks: int, mean: Tensor, rows: int) -> Tensor:
    """The second pass's batch_mean."""
    return with_share(checked_mean(mean, rows), ranks * rows, next(totals))


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Run the block on copies of the model's buffers, and put torch's random state back."""
    devices = {parameter.device for parameter in model.parameters()}
    cuda = [device for device in devices if device.type == "cuda"]
    mps = torch.mps.get_rng_state() if any(device.type == "mps" for device in devices) else None
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
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
