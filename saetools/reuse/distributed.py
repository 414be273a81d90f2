"""The mean over a whole batch, in value and gradient, of which a process has a part, or a past one.

With n_m of the N rows in part m it is q = sum_m (n_m / N) q_m, and a penalty f of it has the
gradient f'(q) sum_m (n_m / N) dq_m: a part needs the value of the whole, and its own gradient times
its share.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from saetools.data.checks import check_count, check_number, check_tensor
from saetools.metrics import count_ranks


def over_ranks(mean: Tensor, rows: int, *, group: "dist.ProcessGroup | None" = None) -> Tensor:
    """The mean over the rows of all processes, from the mean over the rows of this one.

    Its value is the same on every process, to the last bit. Its gradient is this process's share of
    the whole one, times the number of processes, because DistributedDataParallel and FSDP then
    average gradients. Every process of the group makes the call, as often and in the same order, or
    the others wait. Without an initialised torch.distributed it returns the mean.

    Args:
        mean: a frequency (..., L), an error () or another mean over rows, alike in shape, dtype and
            kind of device on all processes. It is returned in float32 or better.
        rows: how many this process has; 0 if none, and its mean counts for nothing.
        group: the processes that share the batch; None for all of them.

    Example:
        >>> over_ranks(torch.tensor(2.5), rows=2)  # one process: the whole batch is here
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
    ranks = count_ranks(group)
    if ranks > 1:
        joined = torch.cat(sums)
        dist.all_reduce(joined, group=group)
        sums = list(joined.split([len(each) for each in sums]))
    return sums, ranks


def with_share(mean: Tensor, rows: int, batch: Tensor, running: Tensor | None = None) -> Tensor:
    """The mean by the running or the batch's sums, with the gradient of mean * rows / its rows."""
    tiny = torch.finfo(batch.dtype).tiny  # in place of 0 rows: 0 / tiny is 0
    own = mean * (rows / batch[-1].clamp(min=tiny)).to(mean.dtype)
    sums = batch if running is None else running
    value = (sums[:-1] / sums[-1].clamp(min=tiny)).to(mean.dtype).reshape(mean.shape)
    # The difference is exactly 0, so that rounding leaves the value alike on every process.
    mean_of_all = value + (own - own.detach())
    mean_of_all.rows = sums[-1]  # type: ignore[attr-defined]  # for frequency_penalty
    return mean_of_all


class RunningFrequency:
    """The frequency over the batches so far, with the gradient of the newest one.

    Give it to `frequency_penalty` as `batch_mean`, called once per training step. A row that is k
    steps old weighs decay^k: about batch / (1 - decay) rows are seen. `group`: see `over_ranks`.

    In batches of 8 rows many a unit is silent by chance and, with eps=1e-3, pulled up with all
    force: units end on for 0.42 of the rows where 0.15 was asked for, but within 0.007 of it with a
    decay of 0.9 and a learning rate of 1e-4. (With the default eps alone: 0.134.) At 1e-3 the value
    lags behind, and more of them stay dead (benchmarks/results/running_frequency.md): better a
    larger batch, or `backward_in_parts`.

    Example:
        >>> running = RunningFrequency(decay=0.5)
        >>> running(torch.tensor([1.0]), rows=4), running(torch.tensor([0.0]), rows=4)
        (tensor([1.]), tensor([0.3333]))
    """

    def __init__(self, *, decay: float = 0.9, group: "dist.ProcessGroup | None" = None) -> None:
        self.decay = check_number("decay", decay, minimum=0, below=1)
        self.group = group
        self.totals: Tensor | None = None  # (units + 1,), decayed: active rows, and rows

    def __call__(self, rho_hat: Tensor, rows: int) -> Tensor:
        """The running frequency (..., L), from that of this batch or of this process's part."""
        rho_hat = checked_mean(rho_hat, rows)
        [batch], ranks = add_up([row_sums(rho_hat, rows)], self.group)
        before = torch.zeros_like(batch) if self.totals is None else self.totals.to(batch)
        if before.shape != batch.shape:
            expected, shape = f"the {len(before) - 1} units of the first call", tuple(rho_hat.shape)
            raise ValueError(f"rho_hat must keep {expected}, got shape {shape}")
        self.totals = self.decay * before + batch
        return with_share(rho_hat, ranks * rows, batch, self.totals)

    def state_dict(self) -> dict[str, Tensor | None]:
        """The decayed counts."""
        return {"totals": self.totals}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Go on from what `state_dict` returned."""
        self.totals = state["totals"]
