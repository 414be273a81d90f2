"""Drawings: the network with the paths of its penalty, and a unit's spread against a sigmoid.

What is drawn is computed: where a gradient stops is asked of autograd, and so is what the drawing's
text says. Colours mean the same in every notebook.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Polygon
from torch import Tensor

from saetools.tutorial.plots import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION

COLOURS = {"z": ORANGE, "ReLU": SKY, "code": BLUE, "count": PURPLE, "gradient": GREEN}
CUT = VERMILION
NONE, ZERO, SOME = "none", "zero", "some"
COLUMNS = (2.9, 4.5, 6.1, 7.7, 9.3)  # where the stages of a path stand


def arrivals(stages: Mapping[str, Tensor]) -> dict[str, str]:
    """What of the last stage's gradient arrives at each stage: "none", "zero" or "some".

    Args:
        stages: name -> tensor, each computed from the one before it.

    Raises:
        ValueError: if a gradient arrives at a stage that does not come through the next one.

    Example:
        >>> z = torch.ones(3, 2, requires_grad=True)
        >>> on = z > 0
        >>> arrivals({"z": z, "on": on, "mean": on.float().mean(0)})
        {'z': 'none', 'on': 'none', 'mean': 'none'}
        >>> clamped = z.clamp(2, 3)
        >>> arrivals({"z": z, "clamped": clamped, "sum": clamped.sum()})["z"]
        'zero'
    """
    end = list(stages.values())[-1]
    found = dict.fromkeys(stages, NONE)
    if not end.requires_grad:
        return found
    reached = [name for name, stage in stages.items() if stage.requires_grad]
    gradients = torch.autograd.grad(
        end.sum(), [stages[name] for name in reached], retain_graph=True, allow_unused=True
    )
    for name, gradient in zip(reached, gradients, strict=True):
        if gradient is not None:
            found[name] = SOME if gradient.any() else ZERO
    for before, after in pairwise(stages):
        if found[before] != NONE and found[after] == NONE:
            raise ValueError(f"{after} must be the tensor from which the next stage was computed")
    return found


def cut_at(stages: Mapping[str, Tensor]) -> str | None:
    """The stage at which the gradient of the last one stops, on its way back to the first."""
    names, found = list(stages), arrivals(stages)
    if found[names[-1]] == NONE:
        return next(name for name, stage in stages.items() if not stage.requires_grad)
    lost = [after for before, after in pairwise(names) if found[before] != SOME]
    return lost[-1] if lost else None


def draw_network(
    ax: Axes, paths: Mapping[str, Mapping[str, Tensor]], *, gradients: bool = True
) -> str:
    """The autoencoder, and below it the paths of penalties, with the place of each one's cut.

    Args:
        ax: of a figure about 9 inches wide, and 1.4 and 0.7 for each path high.
        paths: name -> stages, as for `arrivals`, of at most five; the first one is "z" or "code",
            where the path leaves the network, and the second is the count, or "ReLU" before it.
        gradients: draw what comes back as well.

    Returns:
        What the drawing shows, in sentences, to be its alt text.

    Example:
        >>> from saetools.tutorial.plots import new_figure
        >>> _, [ax] = new_figure()
        >>> z = torch.randn(8, 4, requires_grad=True)
        >>> text = draw_network(ax, {"count": {"z": z, "z > 0": z > 0}})
        >>> text.split(". ")[-1]
        'Path count: z, z > 0; its gradient is cut at z > 0, and none arrives at z.'
    """
    ax.axis("off")
    ax.set(xlim=(-0.2, 11.4), ylim=(-0.95 * len(paths) + 0.15, 1.65))
    for left, text, heights in (
        (0.9, "encoder\n80, 40", (0.28, 0.5, 0.16)),
        (6.6, "decoder\n40, 80", (0.16, 0.5, 0.28)),
    ):
        corners = list(zip((left, left + 0.55, left + 1.1), heights, strict=True))
        outline = [(a, 1 + h) for a, h in corners] + [(a, 1 - h) for a, h in reversed(corners)]
        ax.add_patch(Polygon(outline, facecolor="0.92", edgecolor="0.4"))
        ax.text(left + 0.55, 1, text, ha="center", va="center", fontsize=9)
    _box(ax, 0.25, 1, "x: 20\nnumbers", "white", 0.85)
    for x, name in ((COLUMNS[0], "z"), (5.6, "code")):
        for unit in range(4):
            at = (x, 1.42 - 0.28 * unit)
            ax.add_patch(Circle(at, 0.115, facecolor=COLOURS[name], edgecolor="black"))
        ax.text(x + 0.2, 1.5, name, ha="left", va="center", fontweight="bold")
    _box(ax, 4.25, 1, "ReLU", COLOURS["ReLU"], 0.8)
    _box(ax, 8.5, 1, "its copy", "white", 0.9)
    _box(ax, 10.2, 1, "squared\nerror", "white", 0.9)
    ends = (0.68, 0.9), (2.0, 2.76), (3.05, 3.85), (4.65, 5.45), (5.75, 6.6), (7.7, 8.05)
    for a, b in (*ends, (8.95, 9.75)):
        _arrow(ax, (a, 1.07), (b, 1.07), "black")
        if gradients:
            _arrow(ax, (b, 0.9), (a, 0.9), COLOURS["gradient"])
    if gradients:
        ax.text(9.35, 0.62, "dashed: gradient", ha="center", fontsize=8, color=COLOURS["gradient"])
    said = [
        "The network: 20 numbers, an encoder, four pre-activations z, a ReLU, four numbers that "
        "are the code, a decoder, a copy of the 20 numbers, and their squared error"
        + gradients
        * ", whose gradient goes all the way back"
    ]
    for row, (name, stages) in enumerate(paths.items()):
        said.append(_draw_path(ax, -0.1 - 0.95 * row, name, stages, gradients))
    return ". ".join(said) + "."


def _draw_path(ax: Axes, y: float, name: str, stages: Mapping[str, Tensor], gradients: bool) -> str:
    names = list(stages)
    found = arrivals(stages) if gradients else dict.fromkeys(names, NONE)
    cut = cut_at(stages) if gradients else None
    start = COLUMNS[0] if names[0] == "z" else 5.6
    columns = COLUMNS if names[0] == "z" else (5.6, 6.5, 7.7, 9.0, 10.3)
    top = 0.42 if y > -0.5 else y + 0.95
    ax.plot([start, start], [top, y], color=COLOURS[names[0]], linewidth=1.6, zorder=0)
    ax.text(-0.15, y, name, ha="left", va="center", fontsize=9, fontweight="bold")
    for place, (stage, x) in enumerate(zip(names, columns, strict=False)):
        if not place:
            continue
        before, width = columns[place - 1] + (0.5 if place > 1 else 0), 1.0
        counts = place == 1 + ("ReLU" in names)  # what turns a number into a count
        colour = COLOURS["ReLU"] if stage == "ReLU" else COLOURS["count"] if counts else "white"
        _box(ax, x, y, stage, colour, width, CUT if stage == cut else "black")
        _arrow(ax, (before, y + 0.08), (x - width / 2, y + 0.08), "black")
        if found[names[-1]] == SOME and found[names[place - 1]] == SOME:
            _arrow(ax, (x - width / 2, y - 0.1), (before, y - 0.1), COLOURS["gradient"])
        if stage == cut:
            ax.plot(x - width / 2, y - 0.12, "X", color=CUT, markersize=11, zorder=5, mec="white")
            lost = "cut" if found[names[place - 1]] == NONE else "only zeros"
            ax.text(x - width / 2, y - 0.47, lost, ha="center", va="center", color=CUT)
    listed = f"Path {name}: {', '.join(names)}"
    if not gradients:
        return listed
    if cut is None:
        return f"{listed}; its gradient arrives at {names[0]}"
    what = "nothing but zeros arrive" if found[names[0]] == ZERO else "none arrives"
    return f"{listed}; its gradient is cut at {cut}, and {what} at {names[0]}"


def _box(
    ax: Axes, x: float, y: float, text: str, colour: str, width: float, edge: str = "black"
) -> None:
    corner = (x - width / 2 + 0.06, y - 0.2)
    style = "round,pad=0.06"
    ax.add_patch(
        FancyBboxPatch(
            corner,
            width - 0.12,
            0.4,
            style,
            facecolor=colour,
            edgecolor=edge,
            linewidth=1 if edge == "black" else 2.2,
            zorder=3,
        )
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=9, zorder=4)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    dashed = "--" if colour == COLOURS["gradient"] else "-"
    look = {"arrowstyle": "->", "color": colour, "linestyle": dashed, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)


def draw_spreads(ax: Axes, hard_counts: Mapping[float, float], *, rho: float) -> Axes:
    """Normal units of several spreads whose soft count is rho, under the sigmoid that counts them.

    Args:
        ax: whose title is the caller's.
        hard_counts: spread in temperatures -> the unit's hard count.
        rho: of the soft count.

    Example:
        >>> from saetools.tutorial.plots import new_figure
        >>> _, [ax] = new_figure()
        >>> ax = draw_spreads(ax, {0.1: 0.0, 5: 0.19}, rho=0.2)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['0.1', '5']
    """
    x = torch.linspace(-12, 12, 2401)
    for row, (spread, hard) in enumerate(hard_counts.items()):
        middle = _centre(spread, rho)
        height = 0.75 * torch.exp(-(((x - middle) / spread) ** 2) / 2)
        for side, colour in ((x <= 0, "0.8"), (x >= 0, COLOURS["count"])):
            ax.fill_between(x[side], row, row + height[side], color=colour, linewidth=0)
        ax.plot(x, row + height, color="black", linewidth=0.8)
        ax.text(12.3, row + 0.1, f"{rho:g}     {hard:.2f}", va="bottom", fontsize=8)
    top = len(hard_counts)
    ax.plot(x, top + 0.75 * torch.sigmoid(x), color=COLOURS["gradient"], linewidth=1.8)
    ax.text(-11.8, top + 0.25, "what a row counts", fontsize=8, color=COLOURS["gradient"])
    ax.text(12.3, top + 0.15, "soft   hard\ncount", va="bottom", fontsize=8)
    ax.axvline(0, color="black", linewidth=0.8, linestyle=":")
    ax.set_yticks(range(top), [f"{spread:g}" for spread in hard_counts])
    ax.set(xlabel="pre-activation, in temperatures", ylabel="spread, in temperatures")
    ax.set(xlim=(-12, 12), ylim=(-0.1, top + 0.9))
    return ax


def _centre(spread: float, rho: float, points: Sequence[float] = (-60.0, 60.0)) -> float:
    """Where a normal unit must lie so that its soft count is rho; everything in temperatures."""
    shares = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    rows = spread * torch.special.ndtri(shares)
    low, high = points
    for _ in range(50):
        middle = (low + high) / 2
        above = torch.sigmoid(rows + middle).mean().item() > rho
        low, high = (low, middle) if above else (middle, high)
    return (low + high) / 2
