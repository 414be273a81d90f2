"""Small batches: the penalty on the batch's own frequency, and on a running one.

python benchmarks/running_frequency.py

16 posted networks per cell, each started at rho, trained on batches of 8, 16 or 128 rows of the
synthetic mixture (rho 0.15) or of the Chicago days (rho 0.2), at two learning rates that fall to 0:
with a fixed eps, and with the default, which follows from the rows that are counted.
Written down is how far the 64 units' frequencies over all training rows end from rho, and how many
of the units never fire. Nothing is timed.
"""

import torch
from _report import write_table
from torch.optim.lr_scheduler import LinearLR

from saetools import (
    Output,
    RunningFrequency,
    SparseAutoencoder,
    chicago_context,
    evaluate,
    frequency_penalty,
    initialise_for_frequency_,
    sparse_mixture,
    train_ensemble,
)

COUNTED = ((1e-3, None), (None, None), (1e-3, 0.9), (None, 0.9), (None, 0.99))  # eps, decay
BATCHES = (8, 16, 128)
RATES = (1e-4, 1e-3)


def cell(
    x: torch.Tensor,
    rho: float,
    batch: int,
    lr: float,
    eps: float | None,
    decay: float | None,
    *,
    seeds: int,
    steps: int,
) -> str:
    """Mean frequency, mean distance from rho and number of dead units after training."""
    models = [
        initialise_for_frequency_(SparseAutoencoder(seed=seed), x, rho=rho) for seed in range(seeds)
    ]
    batch_mean = None if decay is None else RunningFrequency(decay=decay)

    def penalty(output: Output) -> torch.Tensor:
        z = output.pre_activations
        return frequency_penalty(z, rho=rho, eps=eps, dim=-2, batch_mean=batch_mean)

    train_ensemble(
        models,
        x,
        penalty,
        steps=steps,
        batch_size=batch,
        lr=lr,
        scheduler=lambda adam: LinearLR(adam, 1.0, 0.0, total_iters=steps),
    )
    frequency = torch.stack([evaluate(model, x).frequency for model in models])
    distance = (frequency - rho).abs().mean()
    return f"{frequency.mean():.3f}, {distance:.3f}, {int((frequency == 0).sum())}"


def main(seeds: int = 16, steps: int = 2500) -> None:
    """Train every cell and write the table."""
    data = {
        "mixture, 0.15": (sparse_mixture(4096, seed=0).train, 0.15),
        "Chicago, 0.2": (chicago_context().train, 0.2),
    }
    rows = [
        [
            f"{name}, {batch}, {lr:g}",
            *(cell(x, rho, batch, lr, *how, seeds=seeds, steps=steps) for how in COUNTED),
        ]
        for name, (x, rho) in data.items()
        for batch in BATCHES
        for lr in RATES
    ]
    write_table(
        "running_frequency",
        "Small batches, and a running frequency",
        [
            f"{seeds} networks of 4 units per cell, {steps:,} steps: mean frequency, mean distance "
            "from rho, units that never fire. The batch's own frequency, or a running one.",
        ],
        [
            "data and rho, batch, learning rate",
            *(
                f"{'own' if decay is None else f'decay {decay}'}, "
                f"{'default eps' if eps is None else f'eps {eps:g}'}"
                for eps, decay in COUNTED
            ),
        ],
        rows,
        device=torch.device("cpu"),
    )


if __name__ == "__main__":
    main()
