"""Gradient accumulation whose penalty sees the frequency of the whole batch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from saetools.frequency import Whole
from saetools.reuse.distributed import (
    checked_mean,
    count_ranks,
    row_sums,
    with_share,
)

Part = TypeVar("Part")


def backward_in_parts(
    model: nn.Module,
    parts: Iterable[Part],
    loss: Callable[[Part, Whole], Tensor],
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    group: "dist.ProcessGroup | None" = None,
) -> Tensor:
    """Add to the gradients what one backward pass through the loss of all parts together would.

    Two passes over the parts: one without a gradient, which gathers the means of the whole
    batch, and one that uses them. The price is a second forward pass of each part; a
    `RunningFrequency` has none, and is not exact. The first pass leaves no trace: the second
    draws the same dropout masks, and buffers, such as BatchNorm's statistics, are updated once.
    (DistributedDataParallel copies its first process's buffers to the others in the first pass,
    and there it is undone: keep those of the first process.)

    Args:
        model: what `loss` calls. If it has a method no_sync, as DistributedDataParallel has,
            the processes exchange gradients with the last part only.
        parts: the micro-batches, one or more, of equal size or not; kept in memory meanwhile.
        loss: called as loss(part, whole), twice for each part, returns a scalar. It hands each
            mean over rows that it computes to `whole(mean, rows)` and goes on with what that
            returns, the mean over the rows of all parts: the error as well as, by
            `frequency_penalty(..., whole=whole)`, the frequency. A term that is over no rows,
            such as a weight decay, goes through whole too, with the part's rows: it would
            count once for each part otherwise. Random numbers are drawn from torch alone.
        backward: called with each part's loss; for instance `lambda cost:
            scaler.scale(cost).backward()`.
        group: the processes that share the batch; by default all of them. See `over_ranks`,
            which explains the gradients' scale. Their numbers of parts may differ; one that
            has no rows gives a part without rows.

    Returns:
        The loss of the whole batch, a scalar without a gradient.

    Raises:
        TypeError, ValueError: if there is no part, or a mean or its rows are not as in
            `over_ranks`.
        RuntimeError: if loss does not call whole, or more often for one part than for another.

    Example:
        >>> from saetools import SparseAutoencoder, frequency_penalty
        >>> model = SparseAutoencoder(seed=0)
        >>> def loss(part, whole):
        ...     output = model(part)
        ...     error = whole((output.reconstruction - part).square().mean(), len(part))
        ...     return error + frequency_penalty(output.pre_activations, rho=0.2, whole=whole)
        >>> cost = backward_in_parts(model, torch.rand(100, 20).split(32), loss)
        >>> cost.requires_grad, model.encoder[0].weight.grad.shape
        (False, torch.Size([80, 20]))
    """
    parts = list(parts)
    if not parts:
        raise ValueError("parts must hold at least one part: where there are no rows, an empty one")
    ranks = count_ranks(group)
    quiet = getattr(model, "no_sync", nullcontext)
    with torch.no_grad(), _unchanged(model), quiet():
        sums = [_gather(part, loss) for part in parts]
    if {len(of_part) for of_part in sums} != {len(sums[0]) or 1}:
        raise RuntimeError(
            "loss must call whole, and as often for each part, got "
            f"{[len(of_part) for of_part in sums]} calls"
        )
    totals = [torch.stack(of_parts).sum(0) for of_parts in zip(*sums, strict=True)]
    if ranks > 1:  # one exchange for all of them, however many parts each process has
        joined = torch.cat(totals)
        dist.all_reduce(joined, group=group)
        totals = list(joined.split([len(total) for total in totals]))
    for position, part in enumerate(parts, start=1):
        with nullcontext() if position == len(parts) else quiet():
            cost = loss(part, partial(_use, iter(totals), ranks))
            backward(cost)
    return cost.detach()


def _gather(part: Part, loss: Callable[[Part, Whole], Tensor]) -> list[Tensor]:
    """The `row_sums` of each mean that loss hands over, in its order."""
    sums: list[Tensor] = []

    def whole(mean: Tensor, rows: int) -> Tensor:
        mean = checked_mean(mean, rows)
        sums.append(row_sums(mean, rows))
        return mean

    loss(part, whole)
    return sums


def _use(totals: Iterator[Tensor], ranks: int, mean: Tensor, rows: int) -> Tensor:
    """The second pass's whole."""
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
