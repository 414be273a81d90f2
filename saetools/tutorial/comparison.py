"""The tasks behind notebook 06, and how a method is measured on them.

The methods are in methods.py. `benchmarks/comparison.py` runs them all; the notebook trains some
again.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saetools.data import chicago_context, sparse_mixture
from saetools.frequency import activation_frequency
from saetools.metrics import dead_latents, dense_latents, fvu
from saetools.training.models import SparseAutoencoder
from saetools.tutorial.matching import match_factors


class Task(NamedTuple):
    """Rows to learn, and what is known of them."""

    name: str
    train: Tensor  # (rows, D)
    test: Tensor  # (test_rows, D)
    rho: float
    test_factors: Tensor | None = None  # (test_rows, K)


def tasks() -> dict[str, Task]:
    """The Chicago days at rho = 0.2, and the mixture of four factors at rho = 0.15.

    Example:
        >>> [(task.name, task.rho) for task in tasks().values()]
        [('days', 0.2), ('mixture', 0.15)]
    """
    days, mixture = chicago_context(), sparse_mixture()
    return {
        "days": Task("days", days.train, days.test, 0.2),
        "mixture": Task("mixture", mixture.train, mixture.test, 0.15, mixture.test_factors),
    }


@torch.no_grad()
def measured(task: Task, models: Sequence[SparseAutoencoder]) -> dict[str, float]:
    """What is said of models that were trained on a task, one row of the grid.

    Returns:
        units and models counted; the test FVU's median, least and largest; how many units are
        within 0.02 of rho on the training rows (`near`), the farthest of them there and on the
        test rows; the mean frequency; dead and dense units; the share of rows without an active
        unit (`none`, a median), and for a task with factors the match's median and least and
        how many models have 0.9 (`match_good`).

    Example:
        >>> from saetools.tutorial.methods import recommended
        >>> task = tasks()["days"]
        >>> row = measured(task, recommended(task, range(2), steps=7))
        >>> row["models"], row["units"]
        (2, 8)
    """
    codes = [model(task.train).pre_activations for model in models]
    tests = [model(task.test) for model in models]
    frequency = torch.stack([activation_frequency(z) for z in codes])
    on_test = torch.stack([activation_frequency(out.pre_activations) for out in tests])
    errors = torch.stack([fvu(out.reconstruction, task.test) for out in tests])
    none = torch.stack([(z <= 0).all(-1).float().mean() for z in codes])
    miss = (frequency - task.rho).abs()
    row = {
        "models": len(codes),
        "units": frequency.numel(),
        "fvu": errors.quantile(0.5).item(),
        "fvu_least": errors.min().item(),
        "fvu_most": errors.max().item(),
        "near": int((miss <= 0.02).sum()),
        "worst": miss.max().item(),
        "worst_test": (on_test - task.rho).abs().max().item(),
        "frequency": frequency.mean().item(),
        "dead": int(dead_latents(frequency).sum()),
        "dense": int(dense_latents(frequency).sum()),
        "none": none.quantile(0.5).item(),
    }
    if task.test_factors is not None:
        pairs = [match_factors(out.pre_activations, task.test_factors).mean for out in tests]
        match = torch.tensor(pairs)
        row["match"] = match.quantile(0.5).item()
        row["match_least"] = match.min().item()
        row["match_good"] = int((match >= 0.9).sum())
    return row


def read_grid(path: str | Path) -> list[dict[str, Any]]:
    """The rows of the file comparison.csv that `benchmarks/comparison.py` writes.

    Returns:
        One dict per row: group, method and task as text, the rest as `measured` returns it.
    """
    texts = ("group", "method", "task")
    with Path(path).open(encoding="utf-8", newline="") as file:
        return [
            {key: value if key in texts else float(value) for key, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
