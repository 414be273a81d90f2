"""Draw the README's figure, with the code that the README tells its reader to paste.

python tools/readme_figure.py
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR

from saetools import (
    PostedAutoencoder,
    SparseAutoencoder,
    chicago_context,
    dead_latents,
    dense_latents,
    evaluate,
    posted_penalty,
    train,
)
from saetools.tutorial.plots import new_figure, plot_frequencies, plot_groups

ROOT = Path(__file__).resolve().parent.parent
SEEDS = range(16)


def readme_blocks() -> list[str]:
    """The README's Python code, block by block."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def posted(seed: int, x: Tensor) -> nn.Module:
    """The posted network, trained with the posted penalty."""
    model = PostedAutoencoder(seed=seed)
    train(model, x, lambda o: posted_penalty(o.latents, batch_size=128 * 20), steps=1000, seed=seed)
    return model


def unpenalised(seed: int, x: Tensor) -> nn.Module:
    """The network with a sigmoid output, without a penalty: what sparsity costs is seen from it."""
    model = SparseAutoencoder(seed=seed)
    train(model, x, steps=1000, seed=seed, scheduler=lambda a: LinearLR(a, 1.0, 0.0, 1000))
    return model


def fixed(seed: int, x: Tensor) -> nn.Module:
    """What the README tells its reader to paste and to run."""
    scope: dict[str, Any] = {"seed": seed}
    fix, _, use = readme_blocks()[:3]
    exec(fix, scope)
    exec(use.replace("seed=0", "seed=seed").replace("print(", "str("), scope)
    assert torch.equal(scope["days"].train, x)
    model: nn.Module = scope["model"]
    return model


def main() -> None:
    """Train 16 networks of each kind, draw, and print the numbers that the README states."""
    torch.set_num_threads(1)
    days = chicago_context()
    kinds = {"as posted": posted, "sigmoid output,\nno penalty": unpenalised, "the fix": fixed}
    frequencies, unexplained = {}, {}
    for name, make in kinds.items():
        models = [make(seed, days.train) for seed in SEEDS]
        frequency = torch.stack([evaluate(model, days.train).frequency for model in models])
        tests = [evaluate(model, days.test) for model in models]
        test_error = (torch.stack([test.frequency for test in tests]) - 0.2).abs().max()
        fvus = torch.tensor([test.fvu for test in tests])
        error = (frequency - 0.2).abs()
        print(
            f"{name!r}: within 0.02 of 0.2: {int((error <= 0.02).sum())} of {error.numel()}, "
            f"worst {error.max():.3f}, on the test days {test_error:.3f}, "
            f"dead {dead_latents(frequency).sum()}, dense {dense_latents(frequency).sum()}, "
            f"test FVU median {fvus.median():.2f} [{fvus.min():.2f}, {fvus.max():.2f}]"
        )
        frequencies[name], unexplained[name] = frequency, fvus
    figure, (left, right) = new_figure(2, width=10)
    ticks = [0.2, 0.5, 1, 2, 3]
    plot_frequencies(left, frequencies, rho=0.2)
    left.set(title="Only with the fix do all units obey", xlabel="4 units from each of 16 seeds")
    plot_groups(right, unexplained)
    right.axhline(1, color="black", linestyle="--", linewidth=1)
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
    right.annotate("no better\nthan the mean", (1.01, 1), annotation_clip=False, **beside)
    right.set(title="and that has a price", xlabel="16 seeds", ylabel="FVU on the test days")
    right.set(yscale="log", yticks=ticks, yticklabels=map(str, ticks))
    right.minorticks_off()
    figure.savefig(ROOT / "docs" / "answer.png", dpi=120)


if __name__ == "__main__":
    main()
