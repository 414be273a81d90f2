"""One training step of the posted network: saetools.train against a loop over a DataLoader.

python benchmarks/one_step.py [ROUNDS] [--device cpu|cuda]

The network is 20-80-40-4-40-80-20 with a sigmoid on its output, batches of 128 rows of the Chicago
days. The loop is the one that a tutorial writes: torch's DataLoader over a TensorDataset, shuffled,
and torch.optim.Adam with its defaults. `train` gathers the rows of many batches at once, uses the
fused Adam, and also keeps every loss and stops at one that is not finite. Each is timed with the
penalty and without; building the model and the optimizer is not counted.
"""

from collections.abc import Callable
from functools import partial

import torch
from _report import arguments, clock, median_ratio, rounds, spread, write_table
from torch.utils.data import DataLoader, TensorDataset

from saetools import Output, SparseAutoencoder, chicago_context, frequency_penalty, train

BATCH = 128
Penalty = Callable[[Output], torch.Tensor]


def penalty(output: Output) -> torch.Tensor:
    """The series' penalty on every unit being active in one row of five."""
    return frequency_penalty(output.pre_activations, rho=0.2)


def loader_loop(x: torch.Tensor, added: Penalty | None, steps: int) -> float:
    """Seconds per step of the loop that a tutorial writes."""
    model = SparseAutoencoder(seed=0).to(x.device)
    loader = DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    done, start = 0, clock(x.device)
    while done < steps:
        for (batch,) in loader:
            output = model(batch)
            loss = (output.reconstruction - batch).square().mean()
            if added is not None:
                loss = loss + added(output)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    return (clock(x.device) - start) / steps


def ours(x: torch.Tensor, added: Penalty | None, steps: int) -> float:
    """Seconds per step of saetools.train."""
    history = train(
        SparseAutoencoder(seed=0).to(x.device),
        x,
        added,
        steps=steps,
        batch_size=BATCH,
        observe=lambda _: clock(x.device),
        observe_every=steps,
    )
    (_, start), (_, end) = history.observations
    return float(end - start) / steps


def main(count: int, device: torch.device, steps: int = 400) -> None:
    """Time the four loops and write the table."""
    x = chicago_context().train.to(device)
    seconds = rounds(
        {
            "loop, none": partial(loader_loop, x, None, steps),
            "train, none": partial(ours, x, None, steps),
            "loop, penalty": partial(loader_loop, x, penalty, steps),
            "train, penalty": partial(ours, x, penalty, steps),
        },
        count,
    )
    rows = []
    for label, key in (("without penalty", "none"), ("with frequency_penalty", "penalty")):
        loop, own = seconds[f"loop, {key}"], seconds[f"train, {key}"]
        rates = [spread([1 / s for s in column]).show(0) for column in (loop, own)]
        rows.append([label, *rates, median_ratio(loop, own).show()])
    added = []
    for which in ("loop", "train"):
        plain, full = seconds[f"{which}, none"], seconds[f"{which}, penalty"]
        more = spread([b - a for a, b in zip(plain, full, strict=True)])
        share = spread([b / a - 1 for a, b in zip(plain, full, strict=True)])
        added.append(f"{more.show(0, 1e6)} µs, {share.show(0, 100)} %")
    rows.append(["what the penalty adds to a step", *added, ""])
    write_table(
        "one_step",
        "One training step of the posted network",
        [
            "Steps per second of a tutorial's loop over torch's DataLoader with its default Adam, "
            "and of `saetools.train`: 20-80-40-4-40-80-20, batch 128.",
            f"Median and range over {count} rounds of {steps} steps each; a ratio or a difference "
            "is taken within a round.",
        ],
        ["one model", "DataLoader loop, steps/s", "`train`, steps/s", "`train` / loop"],
        rows,
        device=device,
    )


if __name__ == "__main__":
    given = arguments(__doc__, rounds=7).parse_args()
    main(given.rounds, given.device)
