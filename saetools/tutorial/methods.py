"""The recipe and its relatives, which differ by their penalty: each trains a model per seed."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LinearLR

from saetools.frequency import (
    step_frequency,
)
from saetools.initialise import target_frequency_
from saetools.penalties import frequency_penalty
from saetools.training.ensemble import train_ensemble
from saetools.training.models import Output, SparseAutoencoder
from saetools.training.multipliers import FrequencyMultipliers
from saetools.training.recipe import learn_shift_hold, train_at_frequency
from saetools.training.start import start_at_frequency_
from saetools.tutorial.comparison import Task
from saetools.tutorial.harness import side_by_side

Models = list[SparseAutoencoder]
Penalty = Callable[[Output], Tensor]

STEPS = 3500


class Plan(NamedTuple):
    """Models that are ready to be trained under a penalty, and in which way."""

    models: Models
    penalty: Penalty | None
    way: str = "one phase"  # at the recipe's rates; or "held", its two phases; or "as posted"


def together(
    task: Task, seeds: Sequence[int], plans: Sequence[Plan], *, steps: int = STEPS
) -> list[Models]:
    """Train the models of several plans, of one class and in one way, as one ensemble.

    Faster than one plan after another, and the same but for rounding.

    Example:
        >>> from saetools.tutorial.comparison import tasks
        >>> days = tasks()["days"]
        >>> plans = [unpenalised_plan(days, [0]), l1_plan(days, [0], 0.1)]
        >>> [len(models) for models in together(days, [0], plans, steps=3)]
        [1, 1]
    """
    [way] = {plan.way for plan in plans}
    models = [model for plan in plans for model in plan.models]
    sizes = [len(plan.models) for plan in plans]

    penalty = side_by_side([plan.penalty for plan in plans], sizes)
    orders = list(seeds) * len(plans)
    if way == "held":
        options: dict[str, Any] = {"steps": steps, "seeds": orders, "weight": 1.0}
        learn_shift_hold(models, task.train, penalty, rho=task.rho, **options)
    elif way == "as posted":
        train_ensemble(models, task.train, penalty, steps=steps, seeds=orders)
    else:
        in_one_phase(models, task, orders, steps, penalty)
    return [plan.models for plan in plans]


def in_one_phase(
    models: Models,
    task: Task,
    seeds: Sequence[int],
    steps: int,
    penalty: Penalty | None,
) -> Models:
    """The models, trained at the recipe's learning rates."""
    end = max(1, steps * 2 // 7)

    def schedule(adam: torch.optim.Optimizer) -> LambdaLR:  # rising, constant, falling
        return LambdaLR(adam, lambda step: min((step + 1) / end, 1, (steps - step) / end))

    x = task.train
    train_ensemble(models, x, penalty, steps=steps, seeds=seeds, lr=1.5e-3, scheduler=schedule)
    return models


def started(task: Task, seeds: Sequence[int]) -> Models:
    """Models at the recipe's start."""
    models = [SparseAutoencoder(task.sizes, seed=seed) for seed in seeds]
    start_at_frequency_(models, task.train, rho=task.rho)
    return models


def recommended(
    task: Task, seeds: Sequence[int], *, sizes: Sequence[int] = (), **options: Any
) -> Models:
    """`train_at_frequency`, the recipe of the series.

    Example:
        >>> from saetools.tutorial.comparison import tasks
        >>> len(recommended(tasks()["days"], range(2), steps=7))
        2
    """
    models = [SparseAutoencoder(sizes or task.sizes, seed=seed) for seed in seeds]
    options = {"steps": STEPS, "rho": task.rho} | options
    train_at_frequency(models, task.train, seeds=seeds, **options)
    return models


def recipe_plan(task: Task, seeds: Sequence[int]) -> Plan:
    """The recipe, to be trained together with others."""
    return Plan(started(task, seeds), recipe_penalty(task.rho), "held")


def recipe_penalty(rho: float | Tensor) -> FrequencyMultipliers:
    """What the recipe learns under, its weight of 0.2 included."""
    return FrequencyMultipliers(rho=rho, damping=0.0, divergence=0.2)


def penalty_plan(task: Task, seeds: Sequence[int], *, weight: float = 0.2) -> Plan:
    """The recipe with `frequency_penalty` alone, without multipliers."""

    def penalty(out: Output) -> Tensor:
        return frequency_penalty(out.pre_activations, rho=task.rho, dim=-2, weight=weight)

    return Plan(started(task, seeds), penalty, "held")


def unpenalised_plan(task: Task, seeds: Sequence[int]) -> Plan:
    """No penalty, from torch's own start."""
    return Plan([SparseAutoencoder(task.sizes, seed=seed) for seed in seeds], None)


def unpenalised(task: Task, seeds: Sequence[int], *, steps: int = STEPS) -> Models:
    """No penalty, and the recipe's learning rates."""
    [models] = together(task, seeds, [unpenalised_plan(task, seeds)], steps=steps)
    return models


def l1_plan(task: Task, seeds: Sequence[int], weight: float) -> Plan:
    """`weight` times the units' mean latents, summed, from torch's own start."""
    models = unpenalised_plan(task, seeds).models
    return Plan(models, lambda out: weight * out.latents.mean(-2).sum(-1))


def with_l1(task: Task, seeds: Sequence[int], weight: float, *, steps: int = STEPS) -> Models:
    """The models of `l1_plan`, trained."""
    [models] = together(task, seeds, [l1_plan(task, seeds, weight)], steps=steps)
    return models


def multipliers_plan(
    task: Task, seeds: Sequence[int], *, hold: bool = False, **options: Any
) -> Plan:
    """The recipe's start, and `FrequencyMultipliers` in place of the penalty.

    Without `hold` there is one phase and no shift: the multipliers alone bring the units to rho.
    """
    penalty = FrequencyMultipliers(rho=task.rho, **options)
    return Plan(started(task, seeds), penalty, "held" if hold else "one phase")


def with_multipliers(
    task: Task, seeds: Sequence[int], *, steps: int = STEPS, **options: Any
) -> Models:
    """The models of `multipliers_plan`, trained."""
    [models] = together(task, seeds, [multipliers_plan(task, seeds, **options)], steps=steps)
    return models


def square_plan(
    task: Task,
    seeds: Sequence[int],
    *,
    weight: float = 0.03,
    bandwidth: float = 1.0,
    hold: bool = False,
) -> Plan:
    """`weight` times the sum of (rho_hat / rho - 1)^2, counted with the rectangle kernel.

    The square of a relative miss, as public trainers of JumpReLU autoencoders use it for the mean
    number of active units; here for each unit. Finite for a unit that is never or always on.
    """

    def penalty(out: Output) -> Tensor:
        rho_hat = step_frequency(out.pre_activations, bandwidth)
        return weight * (rho_hat / task.rho - 1).square().sum(-1)

    return Plan(started(task, seeds), penalty, "held" if hold else "one phase")


def in_two_phases(
    models: Models,
    task: Task,
    seeds: Sequence[int],
    steps: int,
    penalty: Penalty,
    *,
    rhos: Sequence[float],
    after_learning: Callable[[SparseAutoencoder], object] | None = None,
) -> Models:
    """`learn_shift_hold`, with a rho per model, and something done to each before it is shifted."""
    x, learning = task.train, steps * 5 // 7
    holding = steps - learning
    options: dict[str, Any] = {"seeds": list(seeds), "lr": 1.5e-3}

    def rising(adam: torch.optim.Optimizer) -> LinearLR:
        return LinearLR(adam, 1.0 / holding, 1.0, holding)

    def falling(adam: torch.optim.Optimizer) -> LinearLR:
        return LinearLR(adam, 1.0, 0.0, holding)

    train_ensemble(models, x, penalty, steps=learning, scheduler=rising, **options)
    for rho, model in zip(rhos, models, strict=True):
        if after_learning is not None:
            after_learning(model)
        with torch.no_grad():
            target_frequency_(model.code.bias, model.encode(x), rho)
        model.encoder.requires_grad_(False)
    train_ensemble(models, x, steps=holding, scheduler=falling, **options)
    for model in models:
        model.encoder.requires_grad_(True)
    return models


def at_frequencies(
    task: Task, seeds: Sequence[int], rhos: Sequence[float], *, steps: int = STEPS
) -> list[Models]:
    """The recipe at several frequencies at once: of each rho, a model per seed.

    Example:
        >>> from saetools.tutorial.comparison import tasks
        >>> [len(models) for models in at_frequencies(tasks()["days"], [0], [0.1, 0.2], steps=7)]
        [1, 1]
    """
    found = [started(task._replace(rho=rho), seeds) for rho in rhos]
    models = [model for same in found for model in same]
    each = [rho for rho in rhos for _ in seeds]
    penalty = recipe_penalty(torch.tensor(each)[:, None])  # (N, 1)
    in_two_phases(models, task, list(seeds) * len(rhos), steps, penalty, rhos=each)
    return found
