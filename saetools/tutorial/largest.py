"""Rivals of the recipe that keep the largest latents: of a unit, of a row, or of a batch.

Each function trains a model per seed, at the recipe's learning rates, and returns them ready to be
measured.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from saetools.training.models import Output, SparseAutoencoder
from saetools.training.start import start_at_frequency_
from saetools.tutorial.comparison import Task
from saetools.tutorial.methods import STEPS, Models, in_one_phase


class WinnerTakeAll(SparseAutoencoder):
    """Keeps the largest rho B latents of each unit in a batch of B rows, and those equal to them.

    Source: lifetime sparsity of Makhzani and Frey 2015, arXiv 1409.2752.

    Example:
        >>> from saetools import activation_frequency
        >>> model = WinnerTakeAll(seed=0)
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
        over = z - least
        return Output(self.decode(latents), latents, over.where(over != 0, 1e-12))


def winner_take_all(
    task: Task, seeds: Sequence[int], *, start: bool = False, steps: int = STEPS
) -> Models:
    """Exact frequencies by construction, within each batch; measured on all rows as one batch.

    With `start` from the recipe's start, otherwise from torch's default one.
    """
    models: Models = [WinnerTakeAll(task.sizes, seed=seed) for seed in seeds]
    for model in models:
        model.rho = task.rho  # type: ignore[assignment]
    if start:
        start_at_frequency_(models, task.train, rho=task.rho)
    return in_one_phase(models, task, seeds, steps, None)


class TopK(SparseAutoencoder):
    """Of each row's latents the k largest are kept, if they are above 0.

    Source: Makhzani and Frey 2014, arXiv 1312.5663; Gao et al. 2024, arXiv 2406.04093.

    Example:
        >>> z = TopK(seed=0)(torch.rand(50, 20)).pre_activations
        >>> int((z > 0).sum(-1).max())
        1
    """

    k = 1

    def forward(self, x: Tensor) -> Output:
        """As in SparseAutoencoder; a latent's pre-activation is its margin over those that lost."""
        z = self.encode(x)
        lost = z.topk(self.k + 1, dim=-1).values[..., -1:]
        margin = torch.minimum(z, z - lost)
        latents = z.where(margin > 0, 0)
        return Output(self.decode(latents), latents, margin)


def top_k(task: Task, seeds: Sequence[int], *, steps: int = STEPS) -> Models:
    """k is rho L, rounded, and at least 1: with 4 units the frequency is 1/4 on average."""
    models: Models = [TopK(task.sizes, seed=seed) for seed in seeds]
    for model in models:
        model.k = max(1, round(task.rho * task.sizes[-1]))  # type: ignore[assignment]
    start_at_frequency_(models, task.train, rho=task.rho)
    return in_one_phase(models, task, seeds, steps, None)


class BatchTopK(SparseAutoencoder):
    """While training, of a batch's B L latents the rho B L largest; then those over a threshold.

    Source: Bussmann et al. 2024, arXiv 2412.06410.

    Example:
        >>> z = BatchTopK(seed=0)(torch.rand(50, 20)).pre_activations
        >>> int((z > 0).sum()) <= 0.2 * 50 * 4
        True
    """

    rho = 0.2
    threshold = math.nan

    def least(self, z: Tensor) -> Tensor:
        """The smallest latent that is kept of a batch's, (..., 1, 1)."""
        kept = max(1, round(self.rho * z.shape[-1] * z.shape[-2]))
        return z.flatten(-2).topk(kept, dim=-1).values[..., -1:, None]

    def forward(self, x: Tensor) -> Output:
        """As in SparseAutoencoder; a pre-activation is what a latent has over the threshold."""
        z = self.encode(x)
        least = self.least(z).detach() if self.training else self.threshold
        over = torch.where(z >= least, z.clamp(min=0), z - least)
        latents = over.clamp(min=0)
        return Output(self.decode(latents), latents, over)


@torch.no_grad()
def batch_top_k(task: Task, seeds: Sequence[int], *, steps: int = STEPS) -> Models:
    """The threshold is the mean, over the training batches, of the smallest latent kept."""
    models: Models = [BatchTopK(task.sizes, seed=seed) for seed in seeds]
    for model in models:
        model.rho = task.rho  # type: ignore[assignment]
    start_at_frequency_(models, task.train, rho=task.rho)
    with torch.enable_grad():
        in_one_phase(models, task, seeds, steps, None)
    for model in models:
        parts = model.encode(task.train).split(128)[:-1]
        least = [model.least(z).clamp(min=0) for z in parts]  # type: ignore[operator]
        model.eval().threshold = torch.stack(least).mean().item()  # type: ignore[assignment]
    return models
