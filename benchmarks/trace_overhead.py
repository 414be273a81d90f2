"""What `trace_gradients` costs: training steps with and without it, side by side.

python benchmarks/trace_overhead.py [STEPS]
"""

import statistics
import sys
import time
from contextlib import nullcontext

import torch

from saetools import PostedAutoencoder, chicago_context, posted_penalty, train
from saetools.gradients import trace_gradients


def seconds(steps: int, traced: bool) -> float:
    """Wall-clock seconds of training the posted network for `steps` steps."""
    x = chicago_context().train
    model = PostedAutoencoder(seed=0)
    start = time.perf_counter()
    with trace_gradients(model) if traced else nullcontext():
        train(model, x, lambda o: posted_penalty(o.latents, batch_size=2560), steps=steps)
    return time.perf_counter() - start


def main(steps: int = 200, runs: int = 5) -> None:
    """Print the median time of a step both ways, and the median of the ratios pair by pair."""
    torch.set_num_threads(1)
    seconds(5, traced=True)
    pairs = [(seconds(steps, traced=False), seconds(steps, traced=True)) for _ in range(runs)]
    plain, traced = (1000 * statistics.median(c) / steps for c in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"a step: {plain:.2f} ms, traced {traced:.2f} ms, ratio {ratio:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
