"""Checks of notebook 06."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import exercise, is_close, known_mistake, wrong_shape
from saetools.tutorial.matching import phi_coefficients


@exercise(1)
def check_phi(answer: Callable[[Tensor, Tensor], Any]) -> str | None:
    """Notebook 06, exercise 1: the phi coefficient of two columns of booleans."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.rand(400, generator=generator) < 0.1
    other = torch.rand(400, generator=generator) < 0.3
    cases = {
        "a unit that fires with it, and else now and then": (factor | other, factor),
        "a unit that fires exactly with it": (factor, factor),
        "a unit that fires exactly without it": (~factor, factor),
        "a unit that takes no notice of it": (other, factor),
    }
    for what, (active, on) in cases.items():
        got = answer(active.clone(), on.clone())
        if isinstance(got, Tensor) and got.numel() != 1:
            return f"expected one number, got shape {tuple(got.shape)}."
        signs = [2.0 * column[:, None] - 1 for column in (active, on)]  # active where > 0
        expected = phi_coefficients(*signs).item()
        if abs(float(got) - expected) > 1e-4:
            mistake = _mistaken_phi(float(got), active.double(), on.double(), expected)
            return f"{what}: {mistake}"
    return None


def _mistaken_phi(got: float, active: Tensor, on: Tensor, expected: float) -> str:
    both = (active * on).mean()
    known: dict[str, Tensor | float] = {
        "that is how often they agree, which is high for any two columns that are mostly off.": (
            (active == on).double().mean()
        ),
        "the sign is lost: a unit that fires without the factor is at -1.": abs(expected),
        "the sign is the wrong way round.": -expected,
        "that is the square of it.": expected**2,
        "that is the covariance: divide by both spreads.": both - active.mean() * on.mean(),
        "that is how often both are on: subtract what chance gives.": both,
    }
    return known_mistake(got, known, atol=1e-4) or f"expected {expected:.3f}, got {got:.3f}."


@exercise(2)
def check_next_multiplier(answer: Callable[[Tensor, Tensor, float, float], Any]) -> str | None:
    """Notebook 06, exercise 2: the multiplier of each unit after a batch."""
    old, rho_hat = torch.tensor([0.5, 0.0, -0.25]), torch.tensor([0.3, 0.2, 0.0])
    rho, rate = 0.2, 0.5
    got = answer(old.clone(), rho_hat.clone(), rho, rate)
    if mistake := wrong_shape(got, (3,), "one multiplier per unit"):
        return mistake
    miss = rho_hat - rho
    right = old + rate * miss
    if is_close(got, right, atol=1e-6):
        return None
    known = {
        "a unit that is on too often must get a larger one, not a smaller.": old - rate * miss,
        "the rate is missing.": old + miss,
        "the old multiplier is lost: add to it.": rate * miss,
        "it grows for ever: at rho the multiplier must stay as it is.": old + rate * rho_hat,
        "one below 0 is what wakes a unit that is on too rarely: keep it.": right.clamp(min=0),
    }
    return known_mistake(got, known) or f"expected {right.tolist()}, got {got.tolist()}."
