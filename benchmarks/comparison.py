"""The grid behind notebook 06: every method, over 16 seeds, on two tasks.

python benchmarks/comparison.py [SEEDS] [--only GROUP]

Two processes of one thread each. Writes results/comparison.csv, one row per method, with the
columns of `saetools.tutorial.comparison.measured`, and results/comparison.md, which says what it
was measured with. The notebook shows the rows and trains some of them again. With --only, the
other groups' rows stay as they are.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from _report import RESULTS, machine

from saetools.data import sparse_mixture
from saetools.training.models import SparseAutoencoder
from saetools.tutorial.comparison import Task, measured, read_grid, tasks
from saetools.tutorial.methods import (
    FIXES,
    STEPS,
    recommended,
    unpenalised,
    winner_take_all,
    with_fixes,
    with_l1,
    with_multipliers,
)

FILE = RESULTS / "comparison.csv"
RHOS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
L1_WEIGHTS = (3e-4, 1e-3, 2e-3, 4e-3, 1e-2, 3e-2)
Method = Callable[[Task, Sequence[int]], list[SparseAutoencoder]]
Entry = tuple[str, str, Task, Method, int]  # group, its name there, task, method, seeds


def without(fix: str) -> list[str]:
    """All fixes but one."""
    return [other for other in FIXES if other != fix]


def entries(seeds: int) -> list[Entry]:
    """Every row of the grid."""
    found: list[Entry] = []
    both = tasks()
    for task in both.values():
        found.append(("recipe", "recipe, 64 seeds", task, recommended, 4 * seeds))
        found += [("ablation", name, task, method, seeds) for name, method in ablation().items()]
        for rho in RHOS:
            asked = task._replace(rho=rho)
            found.append(("rho", "recipe", asked, recommended, seeds))
            found.append(("rho", "winner-take-all", asked, winner_take_all, seeds))
            found.append(("rho", "multipliers", asked, with_multipliers, seeds))
        for weight in L1_WEIGHTS:
            found.append(("l1", f"{weight:g}", task, partial(with_l1, weight=weight), seeds))
    for task in both.values():
        for weight in (0.05, 0.5, 1.0):
            found.append(
                ("weight", f"{weight:g}", task, partial(recommended, weight=weight), seeds)
            )
        for lr in (5e-4, 3e-3, 1e-2):
            found.append(("rate", f"{lr:g}", task, partial(recommended, lr=lr), seeds))
        for damping in (0.1, 1.0):
            method = partial(with_multipliers, damping=damping)
            found.append(("multipliers", f"damping {damping:g}", task, method, seeds))
            held = partial(method, hold=True)
            found.append(("multipliers", f"damping {damping:g}, held", task, held, seeds))
    for seed in range(17, 25):  # of which none served to choose a setting
        mixture = sparse_mixture(seed=seed)
        drawn = both["mixture"]._replace(
            train=mixture.train, test=mixture.test, test_factors=mixture.test_factors
        )
        found.append(("mixtures", f"seed {seed}", drawn, recommended, seeds))
        fast = partial(recommended, lr=3e-3)
        found.append(("mixtures, rate 0.003", f"seed {seed}", drawn, fast, seeds))
    days = both["days"]
    for units in (8, 16, 32, 64):
        method = partial(recommended, sizes=(20, 80, 40, units), skewed=units <= 16)
        found.append(("units", str(units), days, method, seeds))
    for batch in (32, 64, 256, 512, 1024):
        found.append(("batch", str(batch), days, partial(recommended, batch_size=batch), seeds))
    for steps in (1000, 7000):
        found.append(("steps", str(steps), days, partial(recommended, steps=steps), seeds))
    return found


def ablation() -> dict[str, Method]:
    """The post's training, each fix alone, each left out, all of them, and two half measures."""
    methods: dict[str, Method] = {"as posted": partial(with_fixes, fixes=[])}
    methods |= {f"only {fix}": partial(with_fixes, fixes=[fix]) for fix in FIXES}
    methods |= {f"all but {fix}": partial(with_fixes, fixes=without(fix)) for fix in FIXES}
    methods["all"] = partial(with_fixes, fixes=FIXES)
    methods["soft count, not straight-through"] = partial(
        with_fixes, fixes=without("straight-through"), count="soft"
    )
    methods["clamp, not smoothing"] = partial(with_fixes, fixes=without("smoothing"), ends="clamp")
    methods["soft count and clamp, default start"] = partial(
        with_fixes, fixes=["sigmoid output"], count="soft", ends="clamp"
    )
    start = {"start from data", "skewed directions"}
    methods["default start"] = partial(with_fixes, fixes=[fix for fix in FIXES if fix not in start])
    methods["no penalty"] = unpenalised
    return methods


def run(entry: Entry) -> dict[str, Any]:
    """Train and measure one row."""
    torch.set_num_threads(1)
    group, name, task, method, seeds = entry
    start = time.perf_counter()
    row = measured(task, method(task, range(seeds)))
    print(
        f"{group}, {name}, {task.name}, {task.rho:g}: {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    return {"group": group, "method": name, "task": task.name, "rho": task.rho} | row


def main(seeds: int, only: str | None) -> None:
    """Run the grid and write the table, row by row."""
    chosen = [entry for entry in entries(seeds) if only in (None, entry[0])]
    rows = [] if only is None else [row for row in read_grid(FILE) if row["group"] != only]
    with get_context("spawn").Pool(2) as pool:
        for row in pool.imap(run, chosen, chunksize=1):
            rows.append(row)
            write(rows)
    torch.set_num_threads(1)
    where = machine(torch.device("cpu"))
    FILE.with_suffix(".md").write_text(
        "# The grid behind notebook 06\n\n"
        f"`python benchmarks/comparison.py` on {where} in each of two processes: comparison.csv, "
        f"one row per method, {seeds} seeds where the column `models` says nothing else, {STEPS} "
        "steps of 128 rows where the method says nothing else. The columns are those of "
        "`saetools.tutorial.comparison.measured`.\n",
        encoding="utf-8",
    )


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write the table so far, numbers to four digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            texts = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(texts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seeds", nargs="?", type=int, default=16)
    parser.add_argument("--only", metavar="GROUP")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    main(given.seeds, given.only)
