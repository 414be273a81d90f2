"""The table and the picture of large_codes.py."""

import argparse
import csv
import importlib.util
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _report import machine

Line = dict[str, Any]
COLUMNS = {  # of the table: what it shows of the csv's columns, and with how many digits
    "FVU": ("fvu", 4),
    "as trained: FVU": ("fvu_as_trained", 4),
    "L0": ("l0_as_trained", 1),
    "within 20 %, training": ("within_train", 3),
    "test": ("within_test", 3),
    "dead": ("dead", 0),
    "rare": ("rare", 0),
    "dense": ("dense", 0),
    "ms a step": ("ms", 1),
}


def stem(given: argparse.Namespace) -> str:
    """The files' name."""
    where = "" if given.device.type == "cpu" else f"_{given.device.type}"
    return "large_codes" + ("_activations" if given.activations else "") + where


def write_csv(table: Sequence[Line], file: Path) -> None:
    """A line per method, width and seed."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(table[0]), lineterminator="\n")
        writer.writeheader()
        for line in table:
            shown = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in line.items()}
            writer.writerow(shown)


def groups(table: Sequence[Line]) -> dict[tuple[int, int], dict[str, list[Line]]]:
    """Lines by width and L0, and by method."""
    found: dict[tuple[int, int], dict[str, list[Line]]] = {}
    for line in table:
        width = int(line["latents"]), int(line["l0"])
        found.setdefault(width, {}).setdefault(line["method"], []).append(line)
    return found


def _cell(lines: Sequence[Line], key: str, digits: int) -> str:
    values = [float(line[key]) for line in lines]
    middle, low, high = statistics.median(values), min(values), max(values)
    shown, low_shown, high_shown = (f"{v:.{digits}f}" for v in (middle, low, high))
    return shown if low_shown == high_shown else f"{shown} ({low_shown} to {high_shown})"


def markdown(table: Sequence[Line], given: argparse.Namespace) -> str:
    """A table per width: medians and ranges over seeds, and the FVU beside BatchTopK's."""
    what = "activations" if given.activations else "image patches"
    text = [
        f"# Thousands of latents, on {what}",
        f"`python benchmarks/large_codes.py` on {machine(given.device)}. Its docstring says what "
        "the columns mean; median and range over seeds. `beside BatchTopK` is the ratio of the "
        "FVU, seed by seed.",
    ]
    for (latents, l0), methods in groups(table).items():
        first = next(iter(methods.values()))
        steps, batch = int(first[0]["steps"]), int(first[0]["batch"])
        text.append(f"## {latents:,} latents, L0 {l0}, {steps:,} steps of {batch:,} rows")
        head = ["", *list(COLUMNS)[:1], "beside BatchTopK", *list(COLUMNS)[1:]]
        lines = [head, ["---", *["---:"] * (len(head) - 1)]]
        best = {line["seed"]: line["fvu"] for line in methods.get("BatchTopK", [])}
        for name, found in methods.items():
            cells = [_cell(found, key, digits) for key, digits in COLUMNS.values()]
            ratios = [
                {"ratio": line["fvu"] / best[line["seed"]]}
                for line in found
                if line["seed"] in best
            ]
            beside = _cell(ratios, "ratio", 3) if ratios else ""
            lines.append([name, cells[0], beside, *cells[1:]])
        text.append("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
    return "\n\n".join(text) + "\n"


def picture(table: Sequence[Line], file: Path) -> None:
    """FVU against the share of latents that are dead or rare, a panel per width, a dot per seed."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    widths = {width: methods for width, methods in groups(table).items() if len(methods) > 1}
    names = list(dict.fromkeys(line["method"] for line in table))
    columns = min(2, len(widths))
    rows = -(-len(widths) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns + 2, 3.6 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(widths) :]:
        axis.axis("off")
    handles = {}
    for axis, ((latents, l0), methods) in zip(axes.flat, widths.items(), strict=False):
        for name, lines in methods.items():
            number = names.index(name)
            (handles[name],) = axis.plot(
                [100 * (line["dead"] + line["rare"]) / latents for line in lines],
                [line["fvu"] for line in lines],
                "os"[number // 10],
                color=f"C{number % 10}",
                alpha=0.8,
            )
        axis.set_title(f"{latents:,} latents, L0 {l0}")
        axis.set_xscale("symlog", linthresh=0.1)
        axis.set_xlim(-0.03, 100)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            which("{x:.3g}")
        axis.grid(alpha=0.3)
    figure.supxlabel("dead or rare, % of latents")
    figure.supylabel("FVU on test rows")
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize="small")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def write(table: Sequence[Line], given: argparse.Namespace) -> None:
    """All three files, or but the picture where matplotlib is not at hand."""
    name = stem(given)
    write_csv(table, given.out / f"{name}.csv")
    (given.out / f"{name}.md").write_text(markdown(table, given), encoding="utf-8")
    if importlib.util.find_spec("matplotlib"):
        picture(table, given.out / f"{name}.png")
