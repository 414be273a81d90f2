"""What a step of train_ensemble costs as models, batch and width grow, one at a time.

python benchmarks/scaling.py [ROUNDS] [--device cpu|cuda]

Networks 20-w-w/2-4-w/2-w-20 with a sigmoid on the output, the Chicago days, and the series'
penalty. From 32 models, batches of 128 rows and w = 80, which is the posted network, one factor at
a time is varied. Stacking the models and making the optimizer is not counted.
"""

import itertools
from functools import partial

import torch
from _report import arguments, clock, median_ratio, rounds, spread, write_table

from saetools import Output, SparseAutoencoder, chicago_context, frequency_penalty, train_ensemble

MODELS, BATCH, WIDTH = 32, 128, 80
FACTORS = {
    "models": (1, 8, 32, 128),
    "batch": (32, 128, 512, 1024),
    "width": (20, 80, 320, 640),
}
WORK = 8e9  # multiplications and additions in a timing, roughly


def penalty(output: Output) -> torch.Tensor:
    """The series' penalty on every unit being active in one row of five, one value per model."""
    return frequency_penalty(output.pre_activations, rho=0.2, dim=-2)


def step_seconds(x: torch.Tensor, *, models: int, batch: int, width: int) -> float:
    """Seconds per step of train_ensemble."""
    sizes = (20, width, width // 2, 4)
    weights = 2 * sum(a * b for a, b in itertools.pairwise(sizes))
    steps = max(4, min(200, round(WORK / (6 * models * batch * weights))))
    history = train_ensemble(
        [SparseAutoencoder(sizes, seed=seed).to(x.device) for seed in range(models)],
        x,
        penalty,
        steps=steps,
        batch_size=batch,
        observe=lambda _: clock(x.device),
        observe_every=1,
    )
    moments = [moment for _, moment in history.observations]
    warm = max(1, steps // 10)
    return float(moments[-1] - moments[warm]) / (steps - warm)


def main(count: int, device: torch.device) -> None:
    """Time each setting and write the table."""
    rows = chicago_context().train
    x = rows[: len(rows) // max(FACTORS["batch"]) * max(FACTORS["batch"])].to(device)
    middle = {"models": MODELS, "batch": BATCH, "width": WIDTH}
    settings = [{**middle, name: value} for name in FACTORS for value in FACTORS[name]]
    timed = {str(setting): partial(step_seconds, x, **setting) for setting in settings}
    taken = rounds(timed, count)
    table = []
    for name, values in FACTORS.items():
        for setting in ({**middle, name: value} for value in values):
            column = taken[str(setting)]
            table.append(
                [
                    f"{name} = {setting[name]}",
                    spread(column).show(2, 1e3),
                    f"{1e6 * spread(column).median / setting['models']:,.0f}",
                    median_ratio(column, taken[str(middle)]).show(),
                ]
            )
    write_table(
        "scaling",
        "A step of train_ensemble as models, batch and width grow",
        [
            f"Networks 20-w-w/2-4-w/2-w-20 with `frequency_penalty`; from {MODELS} models, batch "
            f"{BATCH} and w = {WIDTH}, one factor at a time.",
            f"Median and range over {count} rounds; a ratio is taken within a round.",
        ],
        ["varied", "ms per step", "µs per step and model", "time / the middle's"],
        table,
        device=device,
    )


if __name__ == "__main__":
    given = arguments(__doc__, rounds=7).parse_args()
    main(given.rounds, given.device)
