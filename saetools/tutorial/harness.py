"""One way to train for the notebooks: several starts and penalties, each from several seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from saetools.frequency import activation_frequency
from saetools.metrics import evaluate
from saetools.training.ensemble import train_ensemble
from saetools.training.loop import Penalty, train
from saetools.training.models import Output, SparseAutoencoder

Start = Callable[..., SparseAutoencoder]  # of seed=


class Rows(Protocol):
    """Data with rows to train on, and others to test on, (rows, D)."""

    @property
    def train(self) -> Tensor: ...  # noqa: D102
    @property
    def test(self) -> Tensor: ...  # noqa: D102


class Trained(NamedTuple):
    """What became of one group of models, S of them with L units."""

    models: list[SparseAutoencoder]
    before: Tensor  # (S, L), frequencies on the training rows, before training
    frequency: Tensor  # (S, L), and after it
    fvu: Tensor  # (S,), on the test rows
    error: Tensor  # (S, steps), squared error of each batch
    penalty: Tensor  # (S, steps)


def trained(
    groups: Mapping[str, tuple[Start, Penalty | None]],
    data: Rows,
    *,
    seeds: Sequence[int],
    steps: int = 500,
    alone: bool = False,
    **options: Any,
) -> dict[str, Trained]:
    """Train a model from each seed for each group, and measure it.

    Args:
        groups: name -> start, which makes a model from `seed=`, and penalty, which sees the Output
            of its group alone, (S, B, L), and returns (S,); of a model alone (B, L), and ().
        data: rows to train on and to test on.
        seeds: of the models, and of their orders of the rows.
        steps: of each model.
        alone: train one model after the other with `train`, and not all of them as one ensemble.
        options: of `train_ensemble`, or of `train`.

    Example:
        >>> from saetools import chicago_context
        >>> groups = {"no penalty": (SparseAutoencoder, None)}
        >>> trained(groups, chicago_context(), seeds=range(2), steps=3)["no penalty"].fvu.shape
        torch.Size([2])
    """
    sizes, x = [len(seeds)] * len(groups), data.train
    models = [start(seed=seed) for start, _ in groups.values() for seed in seeds]
    penalties = [penalty for _, penalty in groups.values()]
    orders = [*seeds] * len(groups)
    before = frequencies(models, x)
    if alone:
        each = [penalty for penalty in penalties for _ in seeds]
        runs = [
            train(model, x, penalty, steps=steps, seed=seed, **options)
            for model, penalty, seed in zip(models, each, orders, strict=True)
        ]
        error, cost = (torch.stack([getattr(r, w) for r in runs]) for w in ("error", "penalty"))
    else:
        penalty = side_by_side(penalties, sizes)
        history = train_ensemble(models, x, penalty, steps=steps, seeds=orders, **options)
        error, cost = history.error.T, history.penalty.T
    fvu = torch.tensor([evaluate(model, data.test).fvu for model in models])
    columns = (before, frequencies(models, x), fvu, error, cost)
    parts = zip(*(column.split(sizes) for column in columns), strict=True)
    first = range(0, len(models), len(seeds))
    return {
        name: Trained(models[start : start + len(seeds)], *part)
        for name, start, part in zip(groups, first, parts, strict=True)
    }


@torch.no_grad()
def frequencies(models: Sequence[SparseAutoencoder], x: Tensor) -> Tensor:
    """The share of the rows of x on which each unit of each model is active, (S, L)."""
    return torch.stack([activation_frequency(model.encode(x)) for model in models])


def side_by_side(penalties: Sequence[Penalty | None], sizes: Sequence[int]) -> Penalty | None:
    """One penalty for an ensemble of groups of these sizes, each of which has its own.

    One that all of them share is called once, for all.
    """
    if all(penalty is penalties[0] for penalty in penalties):
        return penalties[0]

    def together(out: Output) -> Tensor:
        parts = zip(*(field.split(list(sizes)) for field in out), strict=True)
        costs = [
            out.pre_activations.new_zeros(size) if penalty is None else penalty(Output(*part))
            for penalty, size, part in zip(penalties, sizes, parts, strict=True)
        ]
        return torch.cat(costs)

    return together
