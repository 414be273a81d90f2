"""What happened during training: its curves, as a short table and as a figure."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from saetools.data.checks import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class History(NamedTuple):
    """What happened during training, of one model or of N at once; it prints as a short table.

    Example:
        >>> import torch
        >>> History(torch.arange(8.0, 0, -1), torch.zeros(8), [(0, 1.0), (8, 0.5)])
        training of 1 model in 8 steps, means of each row's steps
                steps      error    penalty
                    1          8          0
                    2          7          0
                3 - 4        5.5          0
                5 - 6        3.5          0
                7 - 8        1.5          0
        and 2 observations
    """

    error: Tensor  # (steps,) or (steps, N), mean squared error of each batch
    penalty: Tensor  # the same shape, its weighted penalty, 0 where there is none
    observations: list[tuple[int, Any]]  # (steps done, what `observe` returned)

    def __repr__(self) -> str:
        error, penalty = _by_model(self.error), _by_model(self.penalty)
        steps, models = error.shape
        lines = [
            f"training of {_counted(models, 'model')} in {_counted(steps, 'step')}, means of each "
            "row's steps",
            f"{'steps':>13} {'error':>10} {'penalty':>10}",
        ]
        start = 0
        for end in sorted({1, *(steps * quarter // 4 for quarter in (1, 2, 3, 4))} - {0}):
            if end <= steps:
                which = f"{start + 1} - {end}" if end > start + 1 else f"{end}"
                values = (curve[start:end].double().mean().item() for curve in (error, penalty))
                lines.append(" ".join([f"{which:>13}", *(f"{value:>10.2g}" for value in values)]))
                start = end
        if self.observations:
            lines.append(f"and {_counted(len(self.observations), 'observation')}")
        return "\n".join(lines)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw error and penalty over the steps (needs matplotlib), on these axes or on new ones.

        Of many models the line is the median, and the band goes from the least to the largest.

        Example:
            >>> import torch
            >>> History(torch.rand(9), torch.zeros(9), []).plot().get_xlabel()
            'step'
        """
        if ax is None:
            with needs("matplotlib", extra="plots"):
                from matplotlib import pyplot
            ax = pyplot.subplots(layout="constrained")[1]
        logarithmic = True
        curves = {"squared error": self.error, "weighted penalty": self.penalty}
        for (name, curve), style in zip(curves.items(), ("-", "--"), strict=True):
            values = _by_model(curve).double()
            values = values.where(values != 0, float("nan"))  # no penalty is no line
            if values.isnan().all():
                continue
            logarithmic &= not bool((values < 0).any())
            steps = range(1, len(values) + 1)
            [line] = ax.plot(steps, values.nanmedian(1).values.numpy(), style, label=name)
            if values.shape[1] > 1:
                ends = values.amin(1).numpy(), values.amax(1).numpy()
                ax.fill_between(steps, *ends, color=line.get_color(), alpha=0.2, linewidth=0)
        ax.set(xlabel="step", ylabel="loss", yscale="log" if logarithmic else "linear")
        if ax.get_lines():
            ax.legend()
        return ax


def _by_model(curve: Tensor) -> Tensor:
    """(steps, N), of one model (steps, 1)."""
    return curve if curve.ndim > 1 else curve[:, None]


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def observer(observe: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """`observe` as a function of the model and of what makes the history so far.

    It is given that history if it has a second parameter without a default.

    Example:
        >>> observer(lambda model, history: history)("model", lambda: "history")
        'history'
        >>> observer(lambda model, default=1: default)("model", lambda: "history")
        1
    """
    if observe is None:
        return None
    try:
        parameters = [*inspect.signature(observe).parameters.values()]
    except ValueError:  # a function in C that does not say
        parameters = []
    needed = [p for p in parameters if p.default is p.empty and "POSITIONAL_O" in p.kind.name]
    if len(needed) > 1:
        return lambda model, history: observe(model, history())
    return lambda model, _: observe(model)
