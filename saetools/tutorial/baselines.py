"""What comes for free: codes that nobody trained, measured as the trained ones are.

Each is linear in what it is given, shifted to the asked frequency by a quantile, and read by
ordinary least squares.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saetools.data.checks import needs
from saetools.initialise import target_frequency_
from saetools.training.models import Output, SparseAutoencoder
from saetools.training.start import start_at_frequency_
from saetools.tutorial.comparison import Task


class Baseline(NamedTuple):
    """A code and its linear decoder."""

    encode: Callable[[Tensor], Tensor]
    decoder: Tensor  # (L + 1, D), the last row the offset

    def __call__(self, x: Tensor) -> Output:
        """As a trained model."""
        z = self.encode(x)
        latents = z.relu()
        return Output(_with_one(latents) @ self.decoder, latents, z)


def _with_one(latents: Tensor) -> Tensor:
    return torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)


def _projected(x: Tensor, *, weight: Tensor, mean: Tensor) -> Tensor:
    return (x - mean) @ weight.T


@torch.no_grad()
def _read(task: Task, encode: Callable[[Tensor], Tensor]) -> Baseline:
    """The code, shifted to the task's rho, and the least squares that read it."""
    z = encode(task.train)
    bias = target_frequency_(torch.zeros(z.shape[1]), z, task.rho)
    latents = _with_one((z + bias).relu())
    decoder = torch.linalg.lstsq(latents, task.train).solution
    return Baseline(lambda x: encode(x) + bias, decoder)


def fast_ica(task: Task, seeds: Sequence[int]) -> list[Baseline]:
    """scikit-learn's FastICA on the raw inputs; each component turned to its longer tail.

    With more units than inputs the first components alone exist, and the rest are their opposites.

    Example:
        >>> from saetools.tutorial.comparison import tasks
        >>> len(fast_ica(tasks()["mixture"], range(2)))
        2
    """
    with needs("scikit-learn", extra="notebooks"):
        from sklearn.decomposition import FastICA

    units = min(task.sizes[-1], task.train.shape[1])
    found = []
    for seed in seeds:
        ica = FastICA(units, fun="cube", whiten="unit-variance", random_state=seed, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not every draw converges to its last digit
            z = ica.fit_transform(task.train.numpy())
        weight = torch.as_tensor(ica.components_ * np.sign((z**3).mean(0))[:, None]).float()
        mean = torch.as_tensor(ica.mean_).float()
        weight = torch.cat([weight, -weight])[: task.sizes[-1]]
        found.append(_read(task, partial(_projected, weight=weight, mean=mean)))
    return found


def principal_components(task: Task, seeds: Sequence[int]) -> list[Baseline]:
    """PCA's first components, each turned to its longer tail; the same for every seed."""
    mean = task.train.mean(0)
    axes = torch.linalg.svd(task.train - mean, full_matrices=False).Vh[: task.sizes[-1]]
    signs = ((task.train - mean) @ axes.T).pow(3).mean(0).sign()
    axes = axes * signs[:, None]
    axes = torch.cat([axes, -axes])[: task.sizes[-1]]
    return [_read(task, partial(_projected, weight=axes, mean=mean)) for _ in seeds]


def random_directions(task: Task, seeds: Sequence[int]) -> list[Baseline]:
    """Directions of the inputs, scaled to a spread of 1 each, drawn at random."""
    found = []
    scaled = task.train.std(0).clamp(min=1e-6)
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        shape = (task.sizes[-1], task.train.shape[1])
        weight = torch.randn(shape, generator=generator, device="cpu") / scaled
        found.append(_read(task, partial(_projected, weight=weight, mean=task.train.mean(0))))
    return found


def untrained_start(task: Task, seeds: Sequence[int], *, skewed: bool = True) -> list[Baseline]:
    """The recipe's network at its start, before any training."""
    models = [SparseAutoencoder(task.sizes, seed=seed) for seed in seeds]
    start_at_frequency_(models, task.train, rho=task.rho, skewed=skewed)
    return [_read(task, model.encode) for model in models]
