"""The mean over a whole batch, in value and gradient, where its rows lie on several processes.

With n_m of the N rows in part m, the mean is q = sum_m (n_m / N) q_m, and a penalty f of it has the
gradient f'(q) sum_m (n_m / N) dq_m: each part needs the value of the whole, and its own gradient
times its share.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from saetools.data.checks import check_count, check_tensor


def over_ranks(mean: Tensor, rows: int, *, group: "dist.ProcessGroup | None" = None) -> Tensor:
    """The mean over the rows of all processes, from the mean over the rows of this one.

    Its value is the same on every process, to the last bit. Its gradient is this process's share
    of the whole one, times the number of processes, because DistributedDataParallel and FSDP then
    average gradients. Every process of the group makes the call, as often and in the same order,
    or the others wait. Without an initialised torch.distributed it returns the mean.

    Args:
        mean: a frequency (..., L), a reconstruction error () or another mean over rows, alike in
            shape, dtype and kind of device on all processes. It is returned in float32 or better.
        rows: how many this process has; 0 if none, and its mean counts for nothing.
        group: the processes that share the batch; None for all of them.

    Example:
        >>> error = torch.tensor([1.0, 4.0]).mean()
        >>> over_ranks(error, 2)  # one process: the whole batch is here
        tensor(2.5000)
    """
    mean = checked_mean(mean, rows)
    [totals], ranks = add_up([row_sums(mean, rows)], group)
    return mean if ranks == 1 else with_share(mean, ranks * rows, totals)


def checked_mean(mean: Tensor, rows: int) -> Tensor:
    """`mean` in float32 or better; 0, and still joined to its graph, if it is over no rows."""
    check_tensor("mean", mean, dims=0)
    mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
    return mean if check_count("rows", rows, minimum=0) else mean.nan_to_num()


def row_sums(mean: Tensor, rows: int) -> Tensor:
    """What adds up over parts, (entries of mean + 1,): the sums over the rows, and the rows."""
    sums = mean.detach().flatten() * rows
    return torch.cat([sums, sums.new_full((1,), rows)])


def add_up(sums: list[Tensor], group: "dist.ProcessGroup | None") -> tuple[list[Tensor], int]:
    """`row_sums` added up over the processes in one exchange, and the number of processes."""
    ranks = dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
    if ranks < 1:
        raise ValueError("group must hold this process, got one that does not")
    if ranks > 1:
        joined = torch.cat(sums)
        dist.all_reduce(joined, group=group)
        sums = list(joined.split([len(each) for each in sums]))
    return sums, ranks


def with_share(mean: Tensor, rows: int, batch: Tensor, running: Tensor | None = None) -> Tensor:
    """The batch's mean, from its added-up `row_sums`, with the gradient of mean * rows / its rows.

    The value is that of the running sums, where they are given.
    """
    tiny = torch.finfo(batch.dtype).tiny  # in place of 0 rows: 0 / tiny is 0
    own = mean * (rows / batch[-1].clamp(min=tiny)).to(mean.dtype)
    sums = batch if running is None else running
    value = (sums[:-1] / sums[-1].clamp(min=tiny)).to(mean.dtype).reshape(mean.shape)
    # The difference is exactly 0, so that rounding leaves the value alike on every process.
    mean_of_all = value + (own - own.detach())
    mean_of_all.rows = sums[-1]  # type: ignore[attr-defined]  # for frequency_penalty
    return mean_of_all
