"""Stacked training against an ordinary loop over a DataLoader, one model after another.

python benchmarks/ensembles.py [ROUNDS] [--compile]

The posted network with a sigmoid on its output and the penalty of the series, batches of 128 rows
of the Chicago days. Every round times every way once, so that what else the machine does falls on
all of them; a ratio is taken within a round, and the median of the ratios is reported.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.data import DataLoader, TensorDataset

from saetools import (
    Output,
    SparseAutoencoder,
    bernoulli_kl,
    chicago_context,
    smooth,
    straight_through_frequency,
    train_ensemble,
)

BATCH = 128
SIZES = (20, 80, 40, 4, 40, 80, 20)


def penalty(output: Output) -> torch.Tensor:
    """The series' penalty on every unit being active in one row of five."""
    rho_hat = smooth(straight_through_frequency(output.pre_activations, 0.3))
    return bernoulli_kl(rho_hat, rho=0.2).sum(-1)


def loader_loop(x: torch.Tensor, steps: int) -> float:
    """Steps a second of the loop that a tutorial writes."""
    model = SparseAutoencoder(seed=0)
    loader = DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    done, start = 0, time.perf_counter()
    while done < steps:
        for (batch,) in loader:
            output = model(batch)
            loss = (output.reconstruction - batch).square().mean() + penalty(output)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    return steps / (time.perf_counter() - start)


def stacked(x: torch.Tensor, count: int, steps: int, compiled: bool) -> float:
    """Models x steps a second of train_ensemble; compiling is not counted."""
    models = [SparseAutoencoder(seed=seed) for seed in range(count)]
    moments: list[float] = []
    train_ensemble(
        models,
        x,
        penalty,
        steps=steps,
        batch_size=BATCH,
        observe=lambda _: moments.append(time.perf_counter()),
        observe_every=steps,
        compile=compiled,
    )
    return count * steps / (moments[-1] - moments[0])


def products_alone(count: int, steps: int) -> float:
    """Models x steps a second of the batched matrix products of a step, and nothing else."""
    inputs = [torch.randn(count, BATCH, size) for size in SIZES[:-1]]
    weights = [torch.randn(count, *pair) for pair in itertools.pairwise(SIZES)]
    gradients = [torch.randn(count, BATCH, size) for size in SIZES[1:]]
    start = time.perf_counter()
    for _ in range(steps):
        for h, weight, gradient in zip(inputs, weights, gradients, strict=True):
            torch.bmm(h, weight)
            torch.bmm(h.mT, gradient)
            if h is not inputs[0]:  # the data need no gradient
                torch.bmm(gradient, weight.mT)
    return count * steps / (time.perf_counter() - start)


def main(rounds: int = 7, compiled: bool = False) -> None:
    """Print one line for each number of models."""
    x = chicago_context().train
    x = x[: len(x) // BATCH * BATCH]  # whole batches: a compiled step has one shape
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {BATCH}")
    for count in (8, 32, 128):
        steps = max(10, 1500 // count)
        ways: dict[str, Callable[[], float]] = {
            "loader": partial(loader_loop, x, 200),
            "products": partial(products_alone, count, steps),
            "stacked": partial(stacked, x, count, steps, compiled=False),
        }
        if compiled:
            ways["compiled"] = partial(stacked, x, count, steps, compiled=True)
        for way in ways.values():
            way()  # once to warm up
        results: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                results[name].append(way())
        for name in list(ways)[2:]:
            ratios = [
                statistics.median(a / b for a, b in zip(results[name], results[base], strict=True))
                for base in ("loader", "products")
            ]
            rate = statistics.median(results[name])
            print(
                f"{count:4} models, {name}: {rate:.0f} models x steps / s, {ratios[0]:.1f} times "
                f"the loader's loop, {ratios[1]:.2f} of its products alone"
            )


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    main(numbers[0] if numbers else 7, compiled="--compile" in sys.argv)
