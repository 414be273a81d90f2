"""A running frequency, for batches too small to tell how often a unit fires."""

import torch
import torch.distributed as dist
from torch import Tensor

from saetools.data.checks import check_number
from saetools.reuse.distributed import add_up, checked_mean, row_sums, with_share


class RunningFrequency:
    """The frequency over the batches so far, with the gradient of the newest one.

    Give it to `frequency_penalty` as `batch_mean`, called once per training step. A row that is k
    steps old weighs decay^k, divided by the sum of all weights. In all, about batch / (1 - decay)
    rows are seen. `group` is as for `over_ranks`.

    In batches of 8 rows many a unit is silent by chance and pulled up with all force: units end on
    for 0.42 of the rows where 0.15 was asked for, but within 0.007 of it with a decay of 0.9 and a
    learning rate of 1e-4. Units that move fast swing ever wider, as the value lags behind: at 1e-3
    more of them stay dead (benchmarks/results/running_frequency.md). Where you can, take a larger
    batch, or `backward_in_parts`.

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
            units, shape = len(before) - 1, tuple(rho_hat.shape)
            raise ValueError(f"rho_hat must keep the first call's {units} units, got shape {shape}")
        self.totals = self.decay * before + batch
        return with_share(rho_hat, ranks * rows, batch, self.totals)

    def state_dict(self) -> dict[str, Tensor | None]:
        """The decayed counts, to go on from."""
        return {"totals": self.totals}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Go on from what `state_dict` returned."""
        self.totals = state["totals"]
