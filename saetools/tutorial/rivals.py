"""Rivals of the recipe that gate each latent: by a learned threshold, at random, by a tracked one.

Each function trains a model per seed, from the recipe's start and at its learning rates, and
returns them ready to be measured.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from saetools.activations.jump_relu import JumpReLU
from saetools.activations.state import against
from saetools.activations.threshold import FrequencyThreshold
from saetools.frequency import step_frequency
from saetools.penalties import bernoulli_kl
from saetools.training.models import Output, SparseAutoencoder
from saetools.training.start import start_at_frequency_
from saetools.tutorial.comparison import Margins, Task
from saetools.tutorial.methods import STEPS, Models, in_one_phase, in_two_phases

Sizes = Sequence[int]


class OverThreshold(Margins):
    """Its activation has thresholds `theta`: a `JumpReLU` or a `FrequencyThreshold`.

    Example:
        >>> OverThreshold(seed=0, activation=JumpReLU(4))(torch.rand(50, 20)).latents.shape
        torch.Size([50, 4])
    """

    def margins(self, out: Output) -> Tensor:
        """What a latent has over its threshold; a penalty on it moves both."""
        theta = self.activation.theta  # type: ignore[attr-defined]
        return out.pre_activations - against(theta, out.pre_activations)


def jump_relu(
    task: Task,
    seeds: Sequence[int],
    *,
    weight: float = 0.3,
    bandwidth: float = 0.3,
    steps: int = STEPS,
) -> Models:
    """`weight` times (L0 / target - 1)^2: the mean frequency is asked for, not each unit's.

    Its gradient reaches the pre-activations as well as the thresholds, which in the paper it does
    not.
    """
    settings = {"threshold": 0.1, "bandwidth": bandwidth}
    models: Models = [
        OverThreshold(task.sizes, seed=seed, activation=JumpReLU(task.sizes[-1], **settings))
        for seed in seeds
    ]
    start_at_frequency_(models, task.train, rho=task.rho)
    with torch.no_grad():
        for model in models:
            model.code.bias.add_(0.1)

    def penalty(out: Output) -> Tensor:
        rho_hat = step_frequency(out.pre_activations, bandwidth)
        return weight * (rho_hat.mean(-1) / task.rho - 1).square()

    return in_one_phase(models, task, seeds, steps, penalty)


class HardConcrete(SparseAutoencoder):
    """Each latent is z times a gate, which while training is drawn at random, often 0 or 1.

    Source: Louizos, Welling and Kingma 2018, arXiv 1712.01312, there for weights; here a gate's
    location follows the row. Afterwards the gate is at its middle, and open where z > 0.

    Example:
        >>> HardConcrete(seed=0)(torch.rand(50, 20)).latents.shape
        torch.Size([50, 4])
    """

    temperature = 0.3  # of the location
    beta, low, high = 2 / 3, -0.1, 1.1

    def location(self, z: Tensor) -> Tensor:
        """The log odds of the gate: its middle is 0 where z is."""
        return z / self.temperature - math.log(-self.high / self.low)

    def forward(self, x: Tensor) -> Output:
        """As in SparseAutoencoder."""
        z = self.encode(x)
        location = self.location(z)
        if self.training:
            noise = torch.rand_like(z).clamp(1e-6, 1 - 1e-6)
            location = (noise.logit() + location) / self.beta
        gate = (location.sigmoid() * (self.high - self.low) + self.low).clamp(0, 1)
        return Output(self.decode(z * gate), z * gate, z)


def hard_concrete(
    task: Task,
    seeds: Sequence[int],
    *,
    weight: float = 0.2,
    temperature: float = 0.3,
    hold: bool = False,
    steps: int = STEPS,
) -> Models:
    """`weight` times the KL penalty on the mean probability that the gate is not 0.

    With `hold` it is shifted to rho and held, as the recipe, by then without chance.
    """
    models: Models = [HardConcrete(task.sizes, seed=seed) for seed in seeds]
    start_at_frequency_(models, task.train, rho=task.rho)
    for model in models:
        model.temperature = temperature  # type: ignore[assignment]
    first = models[0]

    def penalty(out: Output) -> Tensor:
        location = first.location(out.pre_activations)  # type: ignore[operator]
        offset = HardConcrete.beta * math.log(-HardConcrete.low / HardConcrete.high)
        rho_hat = (location - offset).sigmoid().mean(-2)
        return weight * bernoulli_kl(rho_hat.clamp(1e-3, 1 - 1e-3), rho=task.rho).sum(-1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds[0])
        if hold:
            rhos = [task.rho] * len(seeds)
            in_two_phases(
                models,
                task,
                seeds,
                steps,
                penalty,
                rhos=rhos,
                after_learning=SparseAutoencoder.eval,
            )
        else:
            in_one_phase(models, task, seeds, steps, penalty)
    for model in models:
        model.eval()
    return models


class Excess(FrequencyThreshold):
    """Passes what z has over its threshold, and not z itself, as a ReLU with a bias would.

    Example:
        >>> z = torch.randn(100, 3)
        >>> bool((Excess(3, 0.1).start(z)(z) >= 0).all())
        True
    """

    def forward(self, pre_activations: Tensor, mask: Tensor | None = None) -> Tensor:
        """Latents (..., L)."""
        super().forward(pre_activations, mask)
        return (pre_activations - against(self.theta, pre_activations)).relu()


@torch.no_grad()
def tracked_threshold(
    task: Task,
    seeds: Sequence[int],
    *,
    rate: float = 0.05,
    passes: str = "z",
    steps: int = STEPS,
) -> Models:
    """At the end each threshold is set to the quantile over all training rows.

    `passes` is "z", or "excess", z minus the threshold.
    """
    kind, units = {"z": FrequencyThreshold, "excess": Excess}[passes], task.sizes[-1]
    models: Models = [
        OverThreshold(task.sizes, seed=seed, activation=kind(units, task.rho, rate=rate))
        for seed in seeds
    ]
    start_at_frequency_(models, task.train, rho=task.rho)
    for model in models:
        model.code.bias.sub_(model.encode(task.train).mean(0))
        model.activation.start(model.encode(task.train))  # type: ignore[attr-defined]
    with torch.enable_grad():
        in_one_phase(models, task, seeds, steps, None)
    for model in models:
        model.eval().activation.start(model.encode(task.train))  # type: ignore[attr-defined]
    return models
