"""The tasks behind notebook 06, and how a method is measured on them.

The methods are in methods.py. `benchmarks/comparison.py` runs them all; the notebook trains some
again.
"""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saetools.data import chicago_context, sparse_mixture
from saetools.frequency import activation_frequency
from saetools.metrics import dead_latents, dense_latents, fvu
from saetools.training.models import Output, SparseAutoencoder
from saetools.tutorial.matching import match_factors
from saetools.tutorial.measures import auc, paired_mean, phi_ceiling


class Task(NamedTuple):
    """Rows to learn, and what is known of them."""

    name: str
    train: Tensor  # (rows, D)
    test: Tensor  # (test_rows, D)
    rho: float
    test_factors: Tensor | None = None  # (test_rows, K)
    final: Tensor | None = None  # (final_rows, D), kept apart: notebook 06 says from what
    sizes: tuple[int, ...] = (20, 80, 40, 4)  # of the networks


def tasks() -> dict[str, Task]:
    """The Chicago days at rho = 0.2, and the mixture of four factors at rho = 0.15.

    The last two years of the days are kept apart, as `final`; the mixture is one on which no
    setting was chosen.

    Example:
        >>> [(task.name, task.rho) for task in tasks().values()]
        [('days', 0.2), ('mixture', 0.15)]
    """
    days = chicago_context()
    last = days.test_dates[-1]
    kept = sum(day <= last.replace(year=last.year - 2) for day in days.test_dates)
    test, final = days.test[:kept], days.test[kept:]
    return {"days": Task("days", days.train, test, 0.2, final=final), "mixture": mixture_task(17)}


def mixture_task(seed: int, **options: Any) -> Task:
    """A mixture of four factors, each on in 15 % of the rows, or other `options` of it."""
    drawn = sparse_mixture(seed=seed, **options)
    rho = options.get("frequency", 0.15)
    return Task("mixture", drawn.train, drawn.test, rho, drawn.test_factors)


def crowded_task(seed: int) -> Task:
    """More factors than inputs: 12 of them, each on in 10 % of the rows, summed into 8 numbers."""
    drawn = sparse_mixture(factors=12, features=8, frequency=0.1, noise=0.01, seed=seed)
    sizes = (8, 80, 40, 12)
    return Task("crowded", drawn.train, drawn.test, 0.1, drawn.test_factors, sizes=sizes)


def curved_task(seed: int, *, gain: float = 0.3) -> Task:
    """Four factors as in the mixture, whose sum a random network then bends.

    Its inputs are random directions of the sum, each passed through a sine.

    Example:
        >>> curved_task(0).train.shape
        torch.Size([4096, 20])
    """
    drawn = sparse_mixture(noise=0.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(4, 20, generator=generator, device="cpu")
    phases = torch.rand(20, generator=generator, device="cpu")

    def bent(strengths: Tensor) -> Tensor:
        noise = 0.04 * torch.rand(len(strengths), 20, generator=generator, device="cpu")
        waves = torch.sin(2 * math.pi * (strengths @ directions * gain + phases))
        return 0.48 * (1 + waves) + noise

    train, test = bent(drawn.train_factors), bent(drawn.test_factors)
    return Task("curved", train, test, 0.15, drawn.test_factors)


Row = dict[str, Any]


class Margins(SparseAutoencoder):
    """A model with another activation, measured as one with a ReLU is.

    Its pre-activations are margins: above 0 where a latent is active, and otherwise not.
    """

    def margins(self, out: Output) -> Tensor:
        """The margins (..., B, L) behind an Output of the pre-activations themselves."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Output:
        """As in SparseAutoencoder, with margins."""
        out = super().forward(x)
        return out._replace(pre_activations=self.margins(out))


@torch.no_grad()
def measured(task: Task, models: Sequence[Callable[[Tensor], Output]]) -> list[Row]:
    """What is said of models that were trained on a task, a row of the grid for each.

    Returns:
        Of each model: its units; the test rows' `fvu`, and `fvu_final` where rows are kept apart;
        how many units are within 0.02 of rho on the training rows (`near`), the farthest of them
        there (`worst`), on the test rows (`worst_test`) and on the final ones (`worst_final`); the
        mean frequency; dead and dense units; the share of rows without an active unit (`none`).
        For a task with factors, on its test rows: `match`, the mean phi of units and factors that
        are paired; `share`, the mean of phi over the ceiling that two unequal frequencies put on
        it; and `auc`, the mean area under the curve of the pre-activation, paired anew.

    Example:
        >>> from saetools.tutorial.methods import recommended
        >>> task = tasks()["days"]
        >>> [row["units"] for row in measured(task, recommended(task, range(2), steps=7))]
        [4, 4]
    """
    return [_row(task, model) for model in models]


def _row(task: Task, model: Callable[[Tensor], Output]) -> Row:
    z, out = model(task.train).pre_activations, model(task.test)
    frequency, on_test = activation_frequency(z), activation_frequency(out.pre_activations)
    miss = (frequency - task.rho).abs()
    row: Row = {
        "units": frequency.numel(),
        "fvu": fvu(out.reconstruction, task.test).item(),
        "near": int((miss <= 0.02).sum()),
        "worst": miss.max().item(),
        "worst_test": (on_test - task.rho).abs().max().item(),
        "frequency": frequency.mean().item(),
        "dead": int(dead_latents(frequency).sum()),
        "dense": int(dense_latents(frequency).sum()),
        "none": (z <= 0).all(-1).float().mean().item(),
    }
    if task.final is not None:
        last = model(task.final)
        on_last = activation_frequency(last.pre_activations)
        row["fvu_final"] = fvu(last.reconstruction, task.final).item()
        row["worst_final"] = (on_last - task.rho).abs().max().item()
    if task.test_factors is not None:
        pairs = match_factors(out.pre_activations, task.test_factors)
        known = (task.test_factors > 0).double().mean(0)[pairs.factors]
        ceilings = phi_ceiling(on_test.double()[pairs.units], known)
        phi = pairs.phi[pairs.units, pairs.factors]
        row["match"] = pairs.mean
        row["share"] = (phi / ceilings).nan_to_num().mean().item()
        row["auc"] = paired_mean(auc(out.pre_activations, task.test_factors))
    return row


def results(name: str) -> Path:
    """A file that a benchmark writes: the one that came with the package or stands in its clone."""
    shipped = Path(__file__).with_name(name)  # in a wheel; a clone has it once
    return shipped if shipped.exists() else Path(__file__).parents[2] / "benchmarks/results" / name


def read_grid(path: str | Path | None = None) -> list[Row]:
    """The rows of a file that a benchmark writes, by default that of `benchmarks/comparison.py`.

    Args:
        path: the file; by default `results("comparison.csv")`.

    Returns:
        One dict per row: group, method and task as text, the rest as numbers where they are such.
        A cell that is empty is left out.
    """
    texts = ("group", "method", "task")
    with Path(path or results("comparison.csv")).open(encoding="utf-8", newline="") as file:
        return [
            {k: v if k in texts else _number(v) for k, v in row.items() if v}
            for row in csv.DictReader(file)
        ]


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def rows_of(
    grid: Sequence[Row], group: str, task: str, method: str, seeds: Sequence[int] = range(64)
) -> list[Row]:
    """The rows of a method on a task, in the order of their seeds.

    Example:
        >>> row = {"group": "a", "task": "days", "method": "recipe", "seed": 3, "fvu": 0.4}
        >>> len(rows_of([row], "a", "days", "recipe")), rows_of([row], "a", "days", "other")
        (1, [])
    """
    wanted = (group, task, method)
    found = [r for r in grid if (r["group"], r["task"], r["method"]) == wanted]
    return sorted((r for r in found if r["seed"] in seeds), key=lambda row: row["seed"])


def column(rows: Sequence[Row], what: str) -> Tensor:
    """One number of each row, (rows,)."""
    return torch.tensor([row[what] for row in rows])


def spread(values: Tensor, digits: int = 2) -> str:
    """Median and range, as text.

    Example:
        >>> spread(torch.tensor([1.0, 2.0, 4.0]))
        '2.00 [1.00, 4.00]'
    """
    ends = (values.quantile(0.5), values.min(), values.max())
    return "{} [{}, {}]".format(*(f"{value:.{digits}f}" for value in ends))
