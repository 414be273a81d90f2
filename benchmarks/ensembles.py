"""Stacked training beside a DataLoader loop, one `train` after another, and its products alone.

python benchmarks/ensembles.py [ROUNDS] [--device cpu|cuda] [--compile]

The posted network, 20-80-40-4-40-80-20, with a sigmoid on its output and frequency_penalty, batches
of 128 rows of the Chicago days. The loop is the one that a tutorial writes, with torch's default
Adam. Stacked training is timed with the penalty and without; building and compiling the models is
not counted. The products are the batched matrix products of a step and nothing else.
"""

import itertools
from functools import partial

import torch
from _report import Spread, arguments, clock, median_ratio, rounds, spread, write_table
from torch.utils.data import DataLoader, TensorDataset

from saetools import (
    Output,
    SparseAutoencoder,
    chicago_context,
    frequency_penalty,
    train,
    train_ensemble,
)

BATCH = 128
SIZES = (20, 80, 40, 4, 40, 80, 20)
MODELS = (8, 32, 128)
WORK = 3200  # models x steps of a timing of stacked training


def penalty(output: Output) -> torch.Tensor:
    """The series' penalty on every unit being active in one row of five."""
    return frequency_penalty(output.pre_activations, rho=0.2, dim=-2)


def loader_loop(x: torch.Tensor, steps: int) -> float:
    """Seconds per step of the loop that a tutorial writes."""
    model = SparseAutoencoder(seed=0).to(x.device)
    loader = DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    start = clock(x.device)
    for (batch,) in itertools.islice(endless, steps):
        output = model(batch)
        loss = (output.reconstruction - batch).square().mean() + penalty(output)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (clock(x.device) - start) / steps


def alone(x: torch.Tensor, steps: int) -> float:
    """Seconds per step of `train`, of which a grid would run one after another."""
    model = SparseAutoencoder(seed=0).to(x.device)
    history = train(
        model,
        x,
        penalty,
        steps=steps,
        batch_size=BATCH,
        observe=lambda _: clock(x.device),
        observe_every=steps,
    )
    (_, start), (_, end) = history.observations
    return float(end - start) / steps


def stacked(
    x: torch.Tensor, count: int, steps: int, *, penalised: bool = True, compiled: bool = False
) -> float:
    """Seconds per step and model of train_ensemble."""
    history = train_ensemble(
        [SparseAutoencoder(seed=seed).to(x.device) for seed in range(count)],
        x,
        penalty if penalised else None,
        steps=2 * steps,
        batch_size=BATCH,
        observe=lambda _: clock(x.device),
        observe_every=steps,
        compile=compiled,
    )
    _, (_, start), (_, end) = history.observations  # the first step compiles
    return float(end - start) / steps / count


def products_alone(device: torch.device, count: int, steps: int) -> float:
    """Seconds per step and model of the batched matrix products of a step."""
    inputs = [torch.randn(count, BATCH, size, device=device) for size in SIZES[:-1]]
    weights = [torch.randn(count, *pair, device=device) for pair in itertools.pairwise(SIZES)]
    gradients = [torch.randn(count, BATCH, size, device=device) for size in SIZES[1:]]
    start = clock(device)
    for _ in range(steps):
        for h, weight, gradient in zip(inputs, weights, gradients, strict=True):
            torch.bmm(h, weight)
            torch.bmm(h.mT, gradient)
            if h is not inputs[0]:  # the data need no gradient
                torch.bmm(gradient, weight.mT)
    return (clock(device) - start) / steps / count


def main(
    count: int, device: torch.device, compiled: bool = False, work: int = WORK, single: int = 200
) -> None:
    """Time every method for each number of models and write the table."""
    x = chicago_context().train.to(device)
    x = x[: len(x) // BATCH * BATCH]  # whole batches: a compiled step has one shape
    table = []
    for models in MODELS:
        steps = max(2, work // models)
        timed = {
            "DataLoader loop": partial(loader_loop, x, single),
            "one `train` after another": partial(alone, x, single),
            "products alone": partial(products_alone, device, models, steps),
            "without penalty": partial(stacked, x, models, steps, penalised=False),
            "stacked": partial(stacked, x, models, steps),
        }
        if compiled:
            timed["stacked, compiled"] = partial(stacked, x, models, steps, compiled=True)
        taken = rounds(timed, count)
        for name, column in taken.items():
            if name == "without penalty":
                continue
            shares = ["", ""]
            if name.startswith("stacked"):
                shares[0] = median_ratio(taken["products alone"], column).show()
            if name == "stacked":
                added = median_ratio(column, taken["without penalty"])
                shares[1] = Spread(*(value - 1 for value in added)).show(0, 100) + " %"
            table.append(
                [
                    f"{models} models, {name}",
                    spread([1 / seconds for seconds in column]).show(0),
                    median_ratio(taken["DataLoader loop"], column).show(1),
                    *shares,
                ]
            )
    write_table(
        "ensembles",
        "Many models trained as one",
        [
            "Models x steps per second: 20-80-40-4-40-80-20 with `frequency_penalty`, batch "
            f"{BATCH}. A single model's rate does not depend on their number.",
            f"Median and range over {count} rounds; a ratio is taken within a round.",
        ],
        [
            "",
            "models x steps / s",
            "of the loop's rate",
            "of its products' rate",
            "what the penalty adds",
        ],
        table,
        device=device,
    )


if __name__ == "__main__":
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--compile", action="store_true", help="time train_ensemble compiled, too")
    given = parser.parse_args()
    main(given.rounds, given.device, given.compile)
