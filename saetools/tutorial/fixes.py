"""The post's training, with some of the series' fixes and without the others."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saetools.frequency import (
    activation_frequency,
    smooth,
    soft_frequency,
    straight_through_frequency,
)
from saetools.initialise import skewed_units_
from saetools.penalties import bernoulli_kl, unbiased_eps
from saetools.training.models import Output, SparseAutoencoder
from saetools.training.start import initialise_for_frequency_
from saetools.tutorial.comparison import Task
from saetools.tutorial.methods import STEPS, Models, Plan, together

FIXES = (
    "sigmoid output",
    "straight-through",
    "smoothing",
    "start from data",
    "skewed directions",
    "shift and hold",
)


def fixes_plan(
    task: Task,
    seeds: Sequence[int],
    fixes: Sequence[str],
    *,
    count: str = "hard",
    ends: str = "overwrite",
) -> Plan:
    """The post's training with some of the fixes; with all of them it is the recipe.

    Args:
        task: what to learn.
        seeds: for the models.
        fixes: some of FIXES.
        count: without straight-through, what rho_hat is: "hard", the post's count, or "soft".
        ends: without smoothing, how rho_hat is kept off 0 and 1: "overwrite" as in the post,
            or "clamp".
    """
    if unknown := sorted(set(fixes) - set(FIXES)):
        raise ValueError(f"fixes must be of {FIXES}, got {unknown}")
    output = torch.sigmoid if "sigmoid output" in fixes else torch.relu
    models = [SparseAutoencoder(task.sizes, output, seed=seed) for seed in seeds]
    for model in models:
        if "skewed directions" in fixes:
            skewed_units_(model.code, model.code_inputs(task.train))
        if "start from data" in fixes:
            initialise_for_frequency_(model, task.train, rho=task.rho)
    way = "held" if "shift and hold" in fixes else "as posted"
    weight = 0.2 if way == "held" else 1.0

    def penalty(out: Output) -> Tensor:
        z = out.pre_activations
        if "straight-through" in fixes:
            rho_hat = straight_through_frequency(z, 0.3)
        else:
            rho_hat = soft_frequency(z, 0.3) if count == "soft" else activation_frequency(z)
        if "smoothing" in fixes:
            rho_hat = smooth(rho_hat, unbiased_eps(task.rho, z.shape[-2]))  # type: ignore[arg-type]
        elif ends == "clamp":
            rho_hat = rho_hat.clamp(1e-3, 1 - 1e-3)
        else:  # what is overwritten carries no gradient
            rho_hat = rho_hat.where(rho_hat > 0, 1e-3).where(rho_hat < 1, 1 - 1e-3)
        return weight * bernoulli_kl(rho_hat, rho=task.rho).sum(-1)

    return Plan(models, penalty, way)


def with_fixes(
    task: Task, seeds: Sequence[int], fixes: Sequence[str], *, steps: int = STEPS, **options: Any
) -> Models:
    """The models of `fixes_plan`, trained.

    Example:
        >>> from saetools.tutorial.comparison import tasks
        >>> [model] = with_fixes(tasks()["days"], [0], ["sigmoid output"], steps=3)
        >>> model.output is torch.sigmoid
        True
    """
    [models] = together(task, seeds, [fixes_plan(task, seeds, fixes, **options)], steps=steps)
    return models
