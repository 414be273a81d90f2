"""The methods that notebook 06 compares: each trains a model per seed, and returns them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from saetools.frequency import (
    activation_frequency,
    smooth,
    soft_frequency,
    straight_through_frequency,
)
from saetools.initialise import skewed_units_
from saetools.penalties import bernoulli_kl
from saetools.training.ensemble import train_ensemble
from saetools.training.models import Output, SparseAutoencoder
from saetools.training.multipliers import FrequencyMultipliers
from saetools.training.recipe import learn_shift_hold, train_at_frequency
from saetools.training.start import initialise_for_frequency_, start_at_frequency_
from saetools.tutorial.comparison import Task

Models = list[SparseAutoencoder]

STEPS = 3500
FIXES = (
    "sigmoid output",
    "straight-through",
    "smoothing",
    "start from data",
    "skewed directions",
    "shift and hold",
)


def recommended(
    task: Task, seeds: Sequence[int], *, sizes: Sequence[int] = (20, 80, 40, 4), **options: Any
) -> Models:
    """`train_at_frequency`, the recipe of the series.

    Example:
        >>> from saetools.tutorial.comparison import tasks
        >>> len(recommended(tasks()["days"], range(2), steps=7))
        2
    """
    models = [SparseAutoencoder(sizes, seed=seed) for seed in seeds]
    options = {"steps": STEPS, "rho": task.rho} | options
    train_at_frequency(models, task.train, seeds=seeds, **options)
    return models


def with_fixes(
    task: Task,
    seeds: Sequence[int],
    fixes: Sequence[str],
    *,
    count: str = "hard",
    ends: str = "overwrite",
    steps: int = STEPS,
) -> Models:
    """The post's training with some of the fixes; with all of them it is the recipe.

    Args:
        task: what to learn.
        seeds: for the models and the order of their rows.
        fixes: some of FIXES.
        count: without straight-through, what rho_hat is: "hard", the post's count, or "soft".
        ends: without smoothing, how rho_hat is kept off 0 and 1: "overwrite" as in the post,
            or "clamp".
        steps: how many to train for.

    Example:
        >>> from saetools.tutorial.comparison import tasks
        >>> [model] = with_fixes(tasks()["days"], [0], ["sigmoid output"], steps=3)
        >>> model.output is torch.sigmoid
        True
    """
    if unknown := sorted(set(fixes) - set(FIXES)):
        raise ValueError(f"fixes must be of {FIXES}, got {unknown}")
    output = torch.sigmoid if "sigmoid output" in fixes else torch.relu
    models = [SparseAutoencoder(output=output, seed=seed) for seed in seeds]
    for model in models:
        if "skewed directions" in fixes:
            skewed_units_(model.encoder[-1], model.code_inputs(task.train))  # type: ignore[arg-type]
        if "start from data" in fixes:
            initialise_for_frequency_(model, task.train, rho=task.rho)

    def penalty(out: Output) -> Tensor:
        z = out.pre_activations
        if "straight-through" in fixes:
            rho_hat = straight_through_frequency(z, 0.3)
        else:
            rho_hat = soft_frequency(z, 0.3) if count == "soft" else activation_frequency(z)
        if "smoothing" in fixes:
            rho_hat = smooth(rho_hat)
        elif ends == "clamp":
            rho_hat = rho_hat.clamp(1e-3, 1 - 1e-3)
        else:  # what is overwritten carries no gradient
            rho_hat = rho_hat.where(rho_hat > 0, 1e-3).where(rho_hat < 1, 1 - 1e-3)
        return bernoulli_kl(rho_hat, rho=task.rho).sum(-1)

    if "shift and hold" in fixes:
        learn_shift_hold(models, task.train, penalty, rho=task.rho, steps=steps, seeds=seeds)
    else:
        train_ensemble(models, task.train, penalty, steps=steps, seeds=seeds)
    return models


def unpenalised(task: Task, seeds: Sequence[int], *, steps: int = STEPS) -> Models:
    """No penalty, and the recipe's learning rates."""
    return with_l1(task, seeds, 0.0, steps=steps)


def with_l1(task: Task, seeds: Sequence[int], weight: float, *, steps: int = STEPS) -> Models:
    """`weight` times the units' mean latents, summed, from the ordinary start."""
    models = [SparseAutoencoder(seed=seed) for seed in seeds]
    return _in_one_phase(
        models, task, seeds, steps, lambda out: weight * out.latents.mean(-2).sum(-1)
    )


def with_multipliers(
    task: Task, seeds: Sequence[int], *, steps: int = STEPS, hold: bool = False, **options: Any
) -> Models:
    """The recipe's start, and `FrequencyMultipliers` in place of the penalty.

    Without `hold` there is one phase and no shift: the multipliers alone bring the units to rho.
    """
    models = [SparseAutoencoder(seed=seed) for seed in seeds]
    start_at_frequency_(models, task.train, rho=task.rho)
    penalty = FrequencyMultipliers(rho=task.rho, **options)
    if not hold:
        return _in_one_phase(models, task, seeds, steps, penalty)
    x, rho = task.train, task.rho
    learn_shift_hold(models, x, penalty, rho=rho, steps=steps, seeds=seeds, weight=1.0)
    return models


class WinnerTakeAll(SparseAutoencoder):
    """Keeps the largest rho B latents of each unit in a batch of B rows, and those equal to them.

    Source: lifetime sparsity of Makhzani and Frey 2015, arXiv 1409.2752.

    Example:
        >>> model = WinnerTakeAll(seed=0)
        >>> model.rho = 0.2
        >>> activation_frequency(model(torch.rand(50, 20)).pre_activations)
        tensor([0.2000, 0.2000, 0.2000, 0.2000])
    """

    rho = 0.2

    def forward(self, x: Tensor) -> Output:
        """As in SparseAutoencoder; the pre-activations of latents that lost are below 0."""
        z = self.encode(x)
        winners = max(1, round(self.rho * z.shape[-2]))
        least = z.topk(winners, dim=-2).values[..., -1:, :]  # of each unit's winners
        latents = z.where(z >= least, 0)  # winners may be negative: all of them are kept
        return Output(self.decode(latents), latents, (z >= least).to(z.dtype) - 0.5)


def winner_take_all(task: Task, seeds: Sequence[int], *, steps: int = STEPS) -> Models:
    """Exact frequencies by construction, within each batch; measured on all rows as one batch."""
    models: Models = [WinnerTakeAll(seed=seed) for seed in seeds]
    for model in models:
        model.rho = task.rho  # type: ignore[assignment]
    return _in_one_phase(models, task, seeds, steps, None)


def _in_one_phase(
    models: Models,
    task: Task,
    seeds: Sequence[int],
    steps: int,
    penalty: Callable[[Output], Tensor] | None,
) -> Models:
    """The models, trained at the recipe's learning rates."""
    end = max(1, steps * 2 // 7)

    def schedule(adam: torch.optim.Optimizer) -> LambdaLR:  # rising, constant, falling
        return LambdaLR(adam, lambda step: min((step + 1) / end, 1, (steps - step) / end))

    x = task.train
    train_ensemble(models, x, penalty, steps=steps, seeds=seeds, lr=1.5e-3, scheduler=schedule)
    return models
