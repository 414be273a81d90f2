"""Checks of notebook 06."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saetools.metrics import phi_coefficients
from saetools.tutorial.exercises.feedback import print_verdict


def check_phi(answer: Callable[[Tensor, Tensor], Any]) -> None:
    """Notebook 06, exercise 1: the phi coefficient of two columns of booleans."""

    def find_mistake() -> str | None:
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
            try:
                got = answer(active.clone(), on.clone())
            except RuntimeError as error:
                if "mean" not in str(error):  # an exercise that is not answered ends here, too
                    raise
                return "booleans have no mean: turn them into floats first."
            if isinstance(got, Tensor) and got.numel() != 1:
                return f"expected one number, got shape {tuple(got.shape)}."
            signs = [2.0 * column[:, None] - 1 for column in (active, on)]  # active where > 0
            expected = phi_coefficients(*signs).item()
            if abs(float(got) - expected) > 1e-4:
                mistake = _mistaken_phi(float(got), active.double(), on.double(), expected)
                return f"{what}: {mistake}"
        return None

    print_verdict("Exercise 1", find_mistake)


def _mistaken_phi(got: float, active: Tensor, on: Tensor, expected: float) -> str:
    known = {
        (active == on).double().mean().item(): (
            "that is the share of rows on which they agree, which is high for any two columns that "
            "are mostly off."
        ),
        -expected: "the sign is the wrong way round.",
        expected**2: "that is the square of it.",
        abs(expected): "the sign is lost: a unit that fires without the factor is at -1.",
        ((active * on).mean() - active.mean() * on.mean()).item(): (
            "that is the covariance: divide by both standard deviations."
        ),
        (active * on).mean().item(): "that is how often both are on: subtract what chance gives.",
    }
    for wrong, why in known.items():
        if abs(got - wrong) < 1e-4:
            return why
    return f"expected {expected:.3f}, got {got:.3f}."


def check_next_price(answer: Callable[[Tensor, Tensor, float, float], Any]) -> None:
    """Notebook 06, exercise 2: the price of each unit after a batch."""

    def find_mistake() -> str | None:
        price, rho_hat = torch.tensor([0.5, 0.0, -0.25]), torch.tensor([0.3, 0.2, 0.0])
        rho, rate = 0.2, 0.5
        given = price.clone()
        got = answer(given, rho_hat.clone(), rho, rate)
        if not isinstance(got, Tensor) or got.shape != price.shape:
            return f"expected one price a unit, a tensor of shape (3,), got {got!r}."
        miss = rho_hat - rho
        mistakes = (
            (price - rate * miss, "a unit that is on too often must become dearer, not cheaper."),
            (price + miss, "the rate is missing."),
            (rate * miss, "the old price is lost: the new one is added to it."),
            (price + rate * rho_hat, "it grows for ever: at rho the price must stay as it is."),
            (
                (price + rate * miss).clamp(min=0),
                "a price below 0 is what wakes a unit that is on too rarely: keep it.",
            ),
        )
        if torch.allclose(got, price + rate * miss, atol=1e-6):
            return None
        for wrong, why in mistakes:
            if torch.allclose(got, wrong, atol=1e-6):
                return why
        return f"expected {(price + rate * miss).tolist()}, got {got.tolist()}."

    print_verdict("Exercise 2", find_mistake)
