"""Figures: axes in, axes out. Needs matplotlib, which the rest of the package does without.

Colours are Okabe and Ito's, told apart by colour-blind readers; each goes with a marker or a
line style of its own, so that nothing is said by colour alone.
"""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from saetools.data.checks import needs

with needs("matplotlib", extra="plots"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-", "marker": "o"},
    {"color": VERMILION, "linestyle": "--", "marker": "s"},
    {"color": GREEN, "linestyle": "-.", "marker": "^"},
    {"color": PURPLE, "linestyle": ":", "marker": "D"},
    {"color": ORANGE, "linestyle": (0, (6, 2)), "marker": "v"},
    {"color": SKY, "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "P"},
    {"color": BLACK, "linestyle": (0, (1, 3)), "marker": "X"},
)


def new_figure(
    columns: int = 1, *, width: float = 9.0, height: float = 3.4
) -> tuple[Figure, list[Axes]]:
    """A figure, width x height inches, with `columns` axes side by side; `show` displays it.

    Example:
        >>> figure, (left, right) = new_figure(2)
        >>> len(figure.axes)
        2
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def show(figure: Figure, alt: str) -> None:
    """Display `figure` in a notebook as a PNG that carries `alt`.

    The text is stored as the picture's alt text, for those who do not see it, and as its plain
    text, which nbval compares: compute it from the data behind the figure.

    Args:
        figure: with a title and labels on each of its axes.
        alt: one or more sentences that say what the figure shows.

    Raises:
        ValueError: if alt is shorter than 40 characters, or axes lack a title or a label.
    """
    from IPython.display import display

    alt = " ".join(alt.split())
    if len(alt) < 40:
        raise ValueError(f"alt must say what the figure shows, got {alt!r}")
    for ax in figure.axes:
        labels = [ax.get_xlabel(), ax.get_ylabel()] if ax.axison else []  # a drawing has none
        if not all([ax.get_title(), *labels]):
            raise ValueError(f"figure must have a title and two labels on each axes, got {ax}")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    png = base64.b64encode(picture.getvalue()).decode()
    display({"image/png": png, "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)


def plot_groups(ax: Axes, groups: Mapping[str, Tensor]) -> Axes:
    """All values of each group, label -> values, as one column of points per group.

    Example:
        >>> _, [ax] = new_figure()
        >>> ax = plot_groups(ax, {"ReLU": torch.rand(8), "sigmoid": torch.rand(8)})
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['ReLU', 'sigmoid']
    """
    for column, values in enumerate(groups.values()):
        style = STYLES[column % len(STYLES)] | {"linestyle": "none"}
        spread = torch.linspace(-0.3, 0.3, values.numel()) if values.numel() > 1 else torch.zeros(1)
        ax.plot((column + spread).tolist(), values.flatten().tolist(), **style, markersize=4.5)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set_xlim(-0.5, len(groups) - 0.5)
    return ax


def plot_frequencies(ax: Axes, groups: Mapping[str, Tensor], *, rho: float) -> Axes:
    """Activation frequency of every unit, one column of points per group, and the target rho.

    The title is the caller's, since it states the finding.

    Example:
        >>> _, [ax] = new_figure()
        >>> ax = plot_frequencies(ax, {"start": torch.rand(4)}, rho=0.2)
        >>> ax.get_ylabel()
        'activation frequency (share of rows)'
    """
    plot_groups(ax, groups)
    ax.axhline(rho, color="black", linestyle="--", linewidth=1)
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
    ax.annotate(f"asked\nfor {rho:g}", (1.01, rho), annotation_clip=False, **beside)
    return _frequency_axis(ax)


def _frequency_axis(ax: Axes) -> Axes:
    ax.set_ylim(-0.04, 1.04)
    ax.set_ylabel("activation frequency (share of rows)")
    return ax


def plot_changes(
    ax: Axes, before: Tensor, after: Tensor, highlighted: Mapping[str, Tensor]
) -> Axes:
    """Activation frequency of each unit before and after, joined by a line.

    Args:
        before: frequencies in [0, 1], any shape.
        after: those of the same units.
        highlighted: label -> bool mask of that shape; the other units are drawn in grey.

    Example:
        >>> _, [ax] = new_figure()
        >>> before, after = torch.tensor([0.0, 0.5]), torch.tensor([0.3, 0.5])
        >>> ax = plot_changes(ax, before, after, {"revived": before == 0})
        >>> len(ax.lines)
        2
    """
    for i, pair in enumerate(zip(before.flatten().tolist(), after.flatten().tolist(), strict=True)):
        ax.plot([0, 1], pair, color="0.75", linewidth=0.8, marker=".", zorder=1)
        for style, mask in zip(cycle(STYLES), highlighted.values(), strict=False):
            if mask.flatten()[i]:
                line: dict[str, Any] = dict(style)
                ax.lines[-1].set(**line, linewidth=1.8, zorder=2, markersize=5)
    handles = [
        Line2D([], [], **style) for style, _ in zip(cycle(STYLES), highlighted, strict=False)
    ]
    ax.legend(handles, list(highlighted), frameon=False, fontsize=8, loc="center right")
    ax.set_xticks([0, 1], ["before training", "after training"])
    ax.set_xlim(-0.15, 1.6)
    return _frequency_axis(ax)


def plot_runs(
    ax: Axes, x: Sequence[float], groups: Mapping[str, Tensor], *, log: bool = False
) -> Axes:
    """One thin line per run and the median as a thick one, for each group of runs.

    Args:
        x: the common x values (T).
        groups: label -> values (runs, T).
        log: logarithmic y axis.

    Example:
        >>> _, [ax] = new_figure()
        >>> ax = plot_runs(ax, range(5), {"posted": torch.rand(8, 5)})
        >>> len(ax.lines)
        9
    """
    medians: list[Line2D] = []
    for style, values in zip(cycle(STYLES), groups.values(), strict=False):
        line: dict[str, Any] = {"color": style["color"], "linestyle": style["linestyle"]}
        for run in values:
            ax.plot(x, run.tolist(), linewidth=0.7, alpha=0.45, **line)
        medians += ax.plot(x, values.quantile(0.5, dim=0).tolist(), linewidth=2.2, **line)
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(medians, [f"{label}, median" for label in groups], frameon=False, fontsize=8)
    return ax


def plot_pictures(ax: Axes, pictures: Tensor, *, columns: int = 8) -> Axes:
    """Pictures (n, side * side) in rows of so many, each with its own contrast, grey where 0.

    Example:
        >>> _, [ax] = new_figure()
        >>> plot_pictures(ax, torch.randn(16, 100)).images[0].get_array().shape
        (22, 88)
    """
    side = round(pictures.shape[1] ** 0.5)
    scaled = pictures / pictures.abs().amax(1, keepdim=True).clamp(min=1e-12)
    framed = torch.ones(-(-len(pictures) // columns) * columns, side + 1, side + 1)
    framed[: len(pictures), 1:, 1:] = scaled.view(-1, side, side)  # between them it stays white
    whole = torch.cat([torch.cat(list(line), dim=1) for line in framed.split(columns)])
    ax.imshow(whole.tolist(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    return ax
