"""Rivals of the recipe that keep the largest latents: of a unit, of a row, or of a batch.

Each function trains a model per seed, at the recipe's learning rates, and returns them ready to be
measured.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from saetools.activations.batch_top_k import BatchTopK
from saetools.activations.top_k import TopK
from saetools.activations.winner_take_all import WinnerTakeAll
from saetools.training.models import Output
from saetools.training.start import start_at_frequency_
from saetools.tutorial.comparison import Margins, Task
from saetools.tutorial.methods import STEPS, Models, in_one_phase


class WinnerTakeAllModel(Margins):
    """Keeps the largest rho B latents of each unit in a batch of B rows.

    Example:
        >>> from saetools import activation_frequency
        >>> model = WinnerTakeAllModel(seed=0, activation=WinnerTakeAll(4, 0.2))
        >>> activation_frequency(model(torch.rand(50, 20)).pre_activations)
        tensor([0.2000, 0.2000, 0.2000, 0.2000])
    """

    def margins(self, out: Output) -> Tensor:
        """What a latent has over its unit's smallest winner, which itself is just above 0."""
        z = out.pre_activations
        over = z - z.masked_fill(out.latents == 0, torch.inf).amin(-2, keepdim=True)
        return over.where(over != 0, 1e-12)


def winner_take_all(
    task: Task, seeds: Sequence[int], *, start: bool = False, steps: int = STEPS
) -> Models:
    """Exact frequencies by construction, within each batch; measured on all rows as one batch.

    With `start` from the recipe's start, otherwise from torch's default one.
    """
    units = task.sizes[-1]
    models: Models = [
        WinnerTakeAllModel(task.sizes, seed=seed, activation=WinnerTakeAll(units, task.rho))
        for seed in seeds
    ]
    if start:
        start_at_frequency_(models, task.train, rho=task.rho)
    return in_one_phase(models, task, seeds, steps, None)


class TopKModel(Margins):
    """Keeps the k largest of each row's latents that are above 0.

    Example:
        >>> z = TopKModel(seed=0, activation=TopK(1))(torch.rand(50, 20)).pre_activations
        >>> int((z > 0).sum(-1).max())
        1
    """

    def margins(self, out: Output) -> Tensor:
        """What a latent has over the largest of its row that lost."""
        z, k = out.pre_activations, self.activation.k  # type: ignore[attr-defined]
        return torch.minimum(z, z - z.topk(k + 1, dim=-1).values[..., -1:])


def top_k(task: Task, seeds: Sequence[int], *, steps: int = STEPS) -> Models:
    """k is rho L, rounded, and at least 1: with 4 units the frequency is 1/4 on average."""
    k = max(1, round(task.rho * task.sizes[-1]))
    models: Models = [TopKModel(task.sizes, seed=seed, activation=TopK(k)) for seed in seeds]
    start_at_frequency_(models, task.train, rho=task.rho)
    return in_one_phase(models, task, seeds, steps, None)


class BatchTopKModel(Margins):
    """Of a batch's B L latents it keeps the rho B L largest; then those over a threshold.

    Example:
        >>> model = BatchTopKModel(seed=0, activation=BatchTopK(0.8))
        >>> int((model(torch.rand(50, 20)).latents > 0).sum()) <= 0.2 * 50 * 4
        True
    """

    def margins(self, out: Output) -> Tensor:
        """What a latent has over the threshold of later."""
        threshold: Tensor = self.activation.threshold  # type: ignore[attr-defined]
        return out.pre_activations - threshold.unsqueeze(-1)


@torch.no_grad()
def batch_top_k(task: Task, seeds: Sequence[int], *, steps: int = STEPS) -> Models:
    """The threshold is the mean, over the training batches, of the smallest latent kept."""
    k = task.rho * task.sizes[-1]
    models: Models = [
        BatchTopKModel(task.sizes, seed=seed, activation=BatchTopK(k)) for seed in seeds
    ]
    start_at_frequency_(models, task.train, rho=task.rho)
    with torch.enable_grad():
        in_one_phase(models, task, seeds, steps, None)
    for model in models:
        least = []
        for z in model.encode(task.train).split(128)[:-1]:
            kept = z.flatten().topk(max(1, round(k * len(z)))).values
            least.append(kept[-1].clamp(min=0))
        model.eval().activation.threshold.fill_(torch.stack(least).mean())  # type: ignore[attr-defined]
    return models
