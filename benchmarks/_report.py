"""What the benchmarks share: the device, rounds of timings, their ratios, and a Markdown table."""

import argparse
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

RESULTS = Path(__file__).resolve().parent / "results"


class Spread(NamedTuple):
    """A median over rounds, and the range around it."""

    median: float
    low: float
    high: float

    def show(self, digits: int = 2, factor: float = 1) -> str:
        """`median (low to high)`, each times `factor`."""
        numbers = (f"{value * factor:,.{digits}f}" for value in self)
        return "{} ({} to {})".format(*numbers)


def arguments(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """A parser that knows ROUNDS and --device; a benchmark may add its own."""
    head = (description or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=head)
    parser.add_argument("rounds", nargs="?", type=int, default=rounds)
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(best))
    return parser


def clock(device: torch.device) -> float:
    """Seconds on a wall clock, once all work queued on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rounds(timed: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """What each function returned in each of `count` rounds, after one call that is not counted.

    A round calls each once, so that what else the machine does falls on all of them; every other
    round goes backwards, so that none always follows the same one.
    """
    for function in timed.values():
        function()
    results: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(count):
        for name in list(timed)[:: -1 if number % 2 else 1]:
            results[name].append(timed[name]())
    return results


def spread(values: Sequence[float]) -> Spread:
    """Median and range."""
    return Spread(statistics.median(values), min(values), max(values))


def median_ratio(a: Sequence[float], b: Sequence[float]) -> Spread:
    """Median and range of a / b, each taken within a round."""
    return spread([x / y for x, y in zip(a, b, strict=True)])


def machine(device: torch.device) -> str:
    """What was measured on, in a line that names no host and no path."""
    capability = torch.backends.cpu.get_cpu_capability()
    parts = [
        f"{_processor()} ({capability}), {os.cpu_count()} cores",
        f"{torch.get_num_threads()} torch threads",
        platform.system(),
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
    ]
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    return ", ".join(parts)


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def write_table(
    name: str,
    title: str,
    notes: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    device: torch.device,
) -> None:
    """Print a table and write it to results/NAME.md, or NAME_cuda.md when measured there.

    Args:
        name: of the benchmark and of its file.
        title: one line.
        notes: paragraphs between the line on the machine and the table.
        columns: the head of the table; the first is set to the left, the others to the right.
        rows: the cells, as text.
        device: what was measured on.
    """
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *rows)]
    lines.insert(1, "| --- |" + " ---: |" * (len(columns) - 1))
    head = (f"# {title}", f"`python benchmarks/{name}.py` on {machine(device)}.", *notes)
    text = "\n\n".join([*head, "\n".join(lines)]) + "\n"
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / (name + ("" if device.type == "cpu" else f"_{device.type}") + ".md")
    file.write_text(text, encoding="utf-8")
    print(text)
