"""What the second forward pass of backward_in_parts costs, beside plain accumulation.

python benchmarks/accumulation.py [ROUNDS] [--device cpu|cuda]

Forward and backward of 4 micro-batches of 128 rows of the Chicago days, without the optimizer's
step: each with its own penalty (which is quick, and not the whole batch's), by backward_in_parts,
and all 512 rows at once. The posted network, and one four times as wide.
"""

from collections.abc import Callable
from functools import partial

import torch
from _report import arguments, clock, median_ratio, rounds, spread, write_table
from torch.nn.functional import mse_loss

from saetools import (
    SparseAutoencoder,
    backward_in_parts,
    chicago_context,
    frequency_penalty,
    over_ranks,
)
from saetools.frequency import BatchMean

PARTS, ROWS = 4, 128
SIZES = {"20-80-40-4": (20, 80, 40, 4), "20-320-160-16": (20, 320, 160, 16)}


def milliseconds(step: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Of one call, on average."""
    start = clock(device)
    for _ in range(repeats):
        step()
    return 1000 * (clock(device) - start) / repeats


def methods(model: SparseAutoencoder, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The three, by name."""

    def loss(part: torch.Tensor, batch_mean: BatchMean) -> torch.Tensor:
        output = model(part)
        error = batch_mean(mse_loss(output.reconstruction, part), len(part))
        return error + frequency_penalty(output.pre_activations, rho=0.2, batch_mean=batch_mean)

    def plain() -> None:
        for part in x.split(ROWS):
            (loss(part, over_ranks) / PARTS).backward()

    return {
        "plain": plain,
        "in parts": lambda: backward_in_parts(model, x.split(ROWS), loss),
        "at once": lambda: loss(x, over_ranks).backward(),
    }


def main(count: int, device: torch.device, repeats: int = 20) -> None:
    """Time each and write the table."""
    x = chicago_context().train[: PARTS * ROWS].to(device)
    rows = []
    for name, sizes in SIZES.items():
        steps = methods(SparseAutoencoder(sizes, seed=0).to(device), x)
        timed = {how: partial(milliseconds, step, device, repeats) for how, step in steps.items()}
        taken = rounds(timed, count)
        rows.append(
            [
                name,
                *(spread(taken[how]).show() for how in timed),
                median_ratio(taken["in parts"], taken["plain"]).show(),
            ]
        )
    write_table(
        "accumulation",
        "Gradient accumulation with the frequency of the whole batch",
        [
            f"Milliseconds of forward and backward of {PARTS} micro-batches of {ROWS} rows. Median "
            f"and range over {count} rounds of {repeats} each; a ratio is taken within a round."
        ],
        ["network", "plain accumulation", "`backward_in_parts`", "at once", "in parts / plain"],
        rows,
        device=device,
    )


if __name__ == "__main__":
    given = arguments(__doc__, rounds=7).parse_args()
    main(given.rounds, given.device)
