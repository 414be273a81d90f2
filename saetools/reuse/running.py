"""A running frequency, for batches too small to tell how often a unit fires."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from saetools.data.checks import check_number
from saetools.reuse.distributed import checked_mean, count_ranks, row_sums, with_share


class RunningFrequency:
    """The frequency over the batches so far, with the gradient of the newest one.

    Give it to `frequency_penalty` as `batch_mean`, called once per training step. A row that is k
    steps old weighs decay^k, divided by the sum of all weights, so that the first steps are not
    drawn to 0. About batch / (1 - decay) rows are seen at a time.

    When it helps: in a batch of 8 rows many a unit is silent by chance, the penalty pulls it up
    with all its force, and units end on for 0.42 of the rows where 0.15 was asked for. With a
    learning rate of 1e-4 and a decay of 0.9 they end within 0.007 of it on average. When it harms:
    the value lags behind, so that units that move fast swing ever wider, and some stay dead: 14 of
    64 with a learning rate of 1e-3, 11 without it (benchmarks/results/running_frequency.md).
    Where you can, take a larger batch, or `backward_in_parts`.

    Args:
        decay: in [0, 1); 0 is the batch's own frequency.
        group: the processes that share the batch, as for `over_ranks`; None for all of them.

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
        ranks = count_ranks(self.group)
        batch = row_sums(rho_hat, rows)
        if ranks > 1:
            dist.all_reduce(batch, group=self.group)
        if self.totals is None:
            self.totals = torch.zeros_like(batch)
        if self.totals.shape != batch.shape:
            raise ValueError(
                f"rho_hat must keep the {len(self.totals) - 1} units of the first call, "
                f"got shape {tuple(rho_hat.shape)}"
            )
        self.totals = self.decay * self.totals.to(batch) + batch
        return with_share(rho_hat, ranks * rows, batch, self.totals)

    def state_dict(self) -> dict[str, Any]:
        """The decayed counts, to go on from; None before any call."""
        return {"totals": None if self.totals is None else self.totals.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.totals = None if state["totals"] is None else state["totals"].clone()
