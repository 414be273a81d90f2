"""The grid behind notebooks 06 and 07: every method, seed by seed.

python benchmarks/comparison.py [--only GROUP ...] [--processes N] [--settings]

Processes of one thread each. Writes results/comparison.csv, one row per trained network, with the
columns of `saetools.tutorial.comparison.measured`, and results/comparison.md, which says what it
was measured with. With --only, the other groups' rows stay as they are. --settings tries the
settings of each method, on seeds and on a mixture that the grid does not use and without the last
two years of the days, and writes results/comparison_settings.csv.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _methods import FREE, HELD, OTHERS, TRIED, UNTRAINED, ablation
from _report import RESULTS, machine

from saetools.tutorial import methods as own
from saetools.tutorial.comparison import (
    Row,
    Task,
    crowded_task,
    curved_task,
    measured,
    mixture_task,
    read_grid,
    tasks,
)
from saetools.tutorial.fixes import FIXES, fixes_plan
from saetools.tutorial.methods import STEPS, Models

FILE = RESULTS / "comparison.csv"
SETTINGS = RESULTS / "comparison_settings.csv"
RHOS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
Train = Callable[..., Any]


class Job(NamedTuple):
    """What is trained at once: several methods, or one."""

    group: str
    names: Sequence[str]
    task: Task
    seeds: Sequence[int]
    train: Callable[[Task, Sequence[int]], Sequence[Sequence[Any]]]  # a list per name
    rhos: Sequence[float] = ()  # per name, if not the task's


def planned(*plans: Callable[..., own.Plan], steps: int = STEPS) -> Train:
    """A function that trains what the plans say, all of them at once."""

    def train(task: Task, seeds: Sequence[int]) -> list[Models]:
        return own.together(task, seeds, [plan(task, seeds) for plan in plans], steps=steps)

    return train


def alone(method: Callable[..., Any]) -> Train:
    """A function that trains by one method."""
    return lambda task, seeds: [method(task, seeds)]


def dictionaries() -> list[Task]:
    """Mixtures on which the frequency is to be found, the last two with units that do not fit."""
    found = []
    for name, seed, options, units in (
        ("4 factors at 0.15", 21, {}, 4),
        ("4 factors at 0.1", 22, {"frequency": 0.1}, 4),
        ("4 factors at 0.25", 23, {"frequency": 0.25}, 4),
        ("8 factors at 0.15", 24, {"factors": 8}, 8),
        ("4 factors, 8 units", 21, {}, 8),
        ("8 factors, 4 units", 24, {"factors": 8}, 4),
    ):
        task = mixture_task(seed, **options)
        found.append(task._replace(name=name, sizes=(20, 80, 40, units)))
    return found


@cache
def jobs() -> list[Job]:
    """The grid, what matters most first."""
    days, mixture = tasks().values()
    seeds = range(16)
    others = [mixture_task(seed)._replace(name=f"mixture {seed}") for seed in (18, 19, 20)]
    found: list[Job] = []
    for task in (days, mixture):
        found.append(Job("rivals", list(HELD), task, seeds, planned(*HELD.values())))
        found.append(Job("rivals", list(FREE), task, seeds, planned(*FREE.values())))
        for name, method in OTHERS.items():
            found.append(Job("rivals", [name], task, seeds, alone(method)))
        for name, method in UNTRAINED.items():
            found.append(Job("untrained", [name], task, range(64), alone(method)))
    for task in (crowded_task(17), curved_task(17)):
        found.append(Job("hard", list(HELD), task, seeds, planned(*HELD.values())))
        for name in ("BatchTopK", "hard concrete, held", "tracked threshold"):
            found.append(Job("hard", [name], task, seeds, alone(OTHERS[name])))
        for name in ("FastICA", "start, untrained", "random directions"):
            found.append(Job("hard", [name], task, seeds, alone(UNTRAINED[name])))
    names = [f"{rho:g}" for rho in RHOS]
    frequencies = partial(own.at_frequencies, rhos=RHOS)
    for task in dictionaries():
        found.append(Job("dictionaries", names, task, range(8), frequencies, RHOS))
    for task in (days, mixture):
        kinds: dict[tuple[bool, bool], list[str]] = {}  # what can be trained at once
        for name, options in ablation().items():
            fixes = options["fixes"]
            kinds.setdefault(("shift and hold" in fixes, FIXES[0] in fixes), []).append(name)
        for some in kinds.values():
            parts = [partial(fixes_plan, **ablation()[name]) for name in some]
            found.append(Job("ablation", some, task, seeds, planned(*parts)))
    best = ("recipe", "penalty, held", "multipliers, held")
    plans = planned(*(HELD[name] for name in best))
    found.append(Job("rivals", best, days, range(16, 64), plans))
    for other in others:
        found.append(Job("rivals", best, other, seeds, plans))
        found.append(Job("untrained", ["FastICA"], other, seeds, alone(UNTRAINED["FastICA"])))
        start = alone(UNTRAINED["start, untrained"])
        found.append(Job("untrained", ["start, untrained"], other, seeds, start))
    found.append(Job("rho", names, days, seeds, frequencies, RHOS))
    for task in (days, mixture):
        for hold in (False, True):
            dampings = (0.1, 0.3, 1.0)
            plan = partial(own.multipliers_plan, hold=hold)
            parts = [partial(plan, damping=damping) for damping in dampings]
            ends = [f"damping {damping:g}{', held' * hold}" for damping in dampings]
            found.append(Job("multipliers", ends, task, seeds, planned(*parts)))
    for units in (8, 32):
        wide = partial(own.recommended, sizes=(20, 80, 40, units), skewed=units <= 16)
        found.append(Job("units", [str(units)], days, seeds, alone(wide)))
    for batch in (32, 512):
        recipe = partial(own.recommended, batch_size=batch)
        found.append(Job("batch", [str(batch)], days, seeds, alone(recipe)))
    return found


def settings() -> list[Job]:
    """Each method at its settings, on what the grid does not use, with fewer steps."""
    days = tasks()["days"]._replace(final=None)
    found = []
    for task in (days, mixture_task(1)._replace(name="mixture 1")):
        for name, (method, tried) in TRIED.items():
            for options in tried:
                method_ = partial(method, **options)
                text = ", ".join(f"{key} {value}" for key, value in options.items())
                train = planned(method_, steps=1400)
                if "plan" not in getattr(method, "__name__", str(method)):
                    train = alone(partial(method_, steps=1400))
                found.append(Job(name, [text], task, range(100, 104), train))
    return found


def run(number: int, tried: bool) -> list[Row]:
    """Train and measure one job."""
    torch.set_num_threads(1)
    job = (settings() if tried else jobs())[number]
    start = time.perf_counter()
    rows: list[Row] = []
    models = job.train(job.task, job.seeds)
    rhos = job.rhos or [job.task.rho] * len(job.names)
    for name, rho, found in zip(job.names, rhos, models, strict=True):
        asked = job.task._replace(rho=rho)
        for seed, row in zip(job.seeds, measured(asked, found), strict=True):
            head = {"group": job.group, "method": name, "task": asked.name, "rho": rho}
            rows.append(head | {"seed": seed} | row)
    took = f"{time.perf_counter() - start:.0f} s"
    print(f"{job.group}, {', '.join(job.names)}, {job.task.name}: {took}", flush=True)
    return rows


def main(only: Sequence[str], processes: int, tried: bool) -> None:
    """Run the grid and write the table, job by job."""
    everything = settings() if tried else jobs()
    file = SETTINGS if tried else FILE
    chosen = [n for n, job in enumerate(everything) if not only or job.group in only]
    rows = [row for row in read_grid(file) if row["group"] not in only] if only else []
    with get_context("spawn").Pool(processes) as pool:
        for more in pool.imap_unordered(partial(run, tried=tried), chosen, chunksize=1):
            rows += more
            write(rows, file)
    torch.set_num_threads(1)
    where = machine(torch.device("cpu"))
    text = (
        f"# {'The settings that were tried' if tried else 'The grid behind notebooks 06 and 07'}\n"
        f"\n`python benchmarks/comparison.py{' --settings' * tried}` on {where} in each of "
        f"{processes} processes: {file.name}, one row per trained network, {STEPS} steps of 128 "
        "rows where the method says nothing else. The columns are those of "
        "`saetools.tutorial.comparison.measured`.\n"
    )
    if tried:
        text = text.replace(f"{STEPS} steps", "1400 steps")
    file.with_suffix(".md").write_text(text, encoding="utf-8")


def write(rows: Iterable[Row], file: Path) -> None:
    """Write the table so far, numbers to four digits."""
    rows = sorted(rows, key=lambda row: [str(row[key]) for key in ("group", "task", "method")])
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", metavar="GROUP", nargs="+", default=[])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--settings", action="store_true")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    main(given.only, given.processes, given.settings)
