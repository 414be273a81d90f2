"""Checks of notebook 06."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import exercise, is_close, known_mistake, wrong_shape
from saetools.tutorial.measures import wilson


@exercise(1)
def check_next_multiplier(answer: Callable[[Tensor, Tensor, float, float], Any]) -> str | None:
    """Notebook 06, exercise 1: the multiplier of each unit after a batch."""
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


@exercise(2)
def check_interval(answer: Callable[[int, int], Any]) -> str | None:
    """Notebook 06, exercise 2: Wilson's interval of a share, from a count."""
    z = 1.96
    for count, of in ((15, 16), (16, 16), (0, 8), (120, 200)):
        got = answer(count, of)
        if not isinstance(got, tuple) or len(got) != 2:
            return f"expected two numbers, (low, high), got {got!r}."
        right = wilson(count, of)
        if all(abs(float(a) - b) < 1e-3 for a, b in zip(got, right, strict=True)):
            continue
        share = count / of
        width = z * (share * (1 - share) / of) ** 0.5
        known: dict[str, Tensor | float] = {
            "that is the share give or take 1.96 standard errors, which has no width at 0 and 1 "
            "and leaves [0, 1] near them.": torch.tensor([share - width, share + width]),
            "the ends are the wrong way round.": torch.tensor([right[1], right[0]]),
            "the scale is missing: divide by 1 + z^2 / n.": (torch.tensor(right) * (1 + z**2 / of)),
        }
        given = torch.tensor([float(end) for end in got])
        expected = f"expected ({right[0]:.3f}, {right[1]:.3f}), got {got}."
        return f"{count} of {of}: {known_mistake(given, known, atol=1e-3) or expected}"
    return None
