"""What `trace_gradients` costs: training steps with and without it, side by side.

python benchmarks/trace_overhead.py [small] [bert] [memory]
"""

import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

from saetools import PostedAutoencoder, chicago_context, posted_penalty, train
from saetools.gradients import trace_gradients

Step = Callable[[], None]


def posted() -> tuple[nn.Module, Step]:
    """The posted network and its penalty: small products, so that the tracer weighs most."""
    x = chicago_context().train
    model = PostedAutoencoder(seed=0)

    def step() -> None:
        train(model, x, lambda o: posted_penalty(o.latents, batch_size=2560), steps=1)

    return model, step


def small() -> tuple[nn.Module, Step]:
    """A classifier of 20 features with two hidden layers, batch 128, with Adam."""
    model = nn.Sequential(
        *(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    )
    return model, _classify(model, torch.randn(128, 20), torch.randint(0, 10, (128,)))


def bert() -> tuple[nn.Module, Step]:
    """A transformer encoder of the size of BERT-base (12 layers of 768), 4 rows of 64 tokens."""
    layer = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
    model = nn.Sequential(
        *(nn.Embedding(30_000, 768), nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)),
        *(nn.Flatten(), nn.Linear(768 * 64, 2)),
    )
    return model, _classify(model, torch.randint(0, 30_000, (4, 64)), torch.randint(0, 2, (4,)))


def _classify(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    adam = torch.optim.Adam(model.parameters())

    def step() -> None:
        loss = nn.functional.cross_entropy(model(x), y)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


def seconds(model: nn.Module, step: Step, steps: int, traced: bool) -> float:
    """Processor seconds of one step, which other programs on the machine do not change."""
    with trace_gradients(model) if traced else nullcontext():
        step()
        start = time.process_time()
        for _ in range(steps):
            step()
        return (time.process_time() - start) / steps


def compare(name: str, make: Callable[[], tuple[nn.Module, Step]], steps: int, runs: int) -> float:
    """Print the median time of a step both ways; return the median of the ratios, pair by pair."""
    model, step = make()
    seconds(model, step, 1, traced=True)
    pairs = [
        (seconds(model, step, steps, traced=False), seconds(model, step, steps, traced=True))
        for _ in range(runs)
    ]
    plain, traced = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{name}: a step {plain:.2f} ms, traced {traced:.2f} ms, ratio {ratio:.1f}")
    return ratio


def memory(steps: int = 3000) -> int:
    """Print, and return, the bytes that traced steps hold on to after the first 100."""
    model, step = small()
    with trace_gradients(model):
        for _ in range(100):
            step()
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(steps):
            step()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    print(f"{steps} traced steps hold {held / 1024:.0f} KiB")
    return held


def main(*which: str) -> None:
    """Measure what is asked for, or everything."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    which = which or ("small", "bert", "memory")
    if "small" in which:
        compare("posted network", posted, steps=100, runs=5)
        compare("small network", small, steps=200, runs=5)
    if "bert" in which:
        compare("BERT-base size", bert, steps=2, runs=3)
    if "memory" in which:
        memory()


if __name__ == "__main__":
    main(*sys.argv[1:])
