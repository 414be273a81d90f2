"""Checks of notebook 08."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saetools.activations.quantile import common_quantile
from saetools.tutorial.exercises.feedback import exercise, is_close, known_mistake, wrong_shape


@exercise(1)
def check_next_threshold(answer: Callable[[Tensor, Tensor, float, float], Any]) -> str | None:
    """Notebook 08, exercise 1: where the thresholds go after a batch."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 3, generator=generator) * torch.tensor([1.0, 2.0, 5.0])
    theta, rho, rate = torch.tensor([0.5, 3.0, 20.0]), 0.1, 0.04
    got = answer(theta.clone(), z.clone(), rho, rate)
    if mistake := wrong_shape(got, (3,), "one threshold per latent"):
        return mistake
    share, spread = (z > theta).float().mean(0), z.std(0)
    right = theta + rate * spread * (share / rho - 1)
    if any(is_close(got, each, rtol=1e-3) for each in (right, _with(spread * 0.9975, right, theta, spread))):
        return None
    return None


def _with(other: Tensor, right: Tensor, theta: Tensor, spread: Tensor) -> Tensor:
    return theta + (right - theta) * other / spread
