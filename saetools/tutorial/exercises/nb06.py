"""Checks of notebook 06."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import (
    exercise,
    is_close,
    known_mistake,
    one_number,
    wrong_shape,
)
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
    known: dict[str, Tensor | float] = {
        "a unit that is on too often must get a larger one, not a smaller.": old - rate * miss,
        "the rate is missing.": old + miss,
        "the old multiplier is lost: add to it.": rate * miss,
        "it grows for ever: at rho the multiplier must stay as it is.": old + rate * rho_hat,
        "one below 0 is what wakes a unit that is on too rarely: keep it.": right.clamp(min=0),
        "steps of one size swing round rho for ever: take the miss itself, not its sign.": (
            old + rate * miss.sign()
        ),
        "each unit has a miss of its own: no mean over the units.": old + rate * miss.mean(),
        "a multiplier of 0 could never leave it: add the step, do not multiply.": (
            old * (1 + rate * miss)
        ),
        "the miss is rho_hat - rho here, not divided by rho.": old + rate * miss / rho,
        "the miss has no square: it must be able to fall.": old + rate * miss.square(),
    }
    return known_mistake(got, known) or f"expected {right.tolist()}, got {got.tolist()}."


@exercise(2)
def check_interval(answer: Callable[[int, int], Any]) -> str | None:
    """Notebook 06, exercise 2: Wilson's interval of a share, from a count."""
    z = 1.96
    for count, of in ((15, 16), (16, 16), (0, 8), (120, 200)):
        got = answer(count, of)
        is_pair = isinstance(got, Sequence) or getattr(got, "shape", ()) == (2,)
        ends = [one_number(end) for end in got] if is_pair else []
        if len(ends) != 2 or None in ends:
            return f"expected two numbers, (low, high), got {got!r}."
        given, right = torch.tensor(ends), wilson(count, of)
        if is_close(given, torch.tensor(right), rtol=0, atol=1e-3):
            continue
        share = count / of
        width = z * (share * (1 - share) / of) ** 0.5
        known: dict[str, Tensor | float] = {
            "that is the share give or take 1.96 standard errors, which has no width at 0 and 1 "
            "and leaves [0, 1] near them.": torch.tensor([share - width, share + width]),
            "the ends are the wrong way round.": torch.tensor([right[1], right[0]]),
            "the scale is missing: divide by 1 + z^2 / n.": (torch.tensor(right) * (1 + z**2 / of)),
            "those are the middle and half of the width: give the ends.": torch.tensor(
                [sum(right) / 2, (right[1] - right[0]) / 2]
            ),
            "z ** 2 / 2 * n multiplies by n: write z ** 2 / (2 * n).": _ends(
                share, of, z**2 / 2 * of, z**2 / (4 * of**2)
            ),
            "z ** 2 / 4 * n ** 2 multiplies by n ** 2: write z ** 2 / (4 * n ** 2).": (
                _ends(share, of, z**2 / (2 * of), z**2 / 4 * of**2)
            ),
            "the root lacks its z ** 2 / (4 * n ** 2).": (_ends(share, of, z**2 / (2 * of), 0.0)),
            "the root lacks its factor z.": _ends(
                share, of, z**2 / (2 * of), z**2 / (4 * of**2), factor=1.0
            ),
        }
        expected = f"expected ({right[0]:.3f}, {right[1]:.3f}), got {got}."
        return f"{count} of {of}: {known_mistake(given, known, atol=1e-3) or expected}"
    return None


def _ends(share: float, of: int, shift: float, within: float, *, factor: float = 1.96) -> Tensor:
    """The ends as the formula has them, with one of its terms as an answer may have it."""
    half = factor * (share * (1 - share) / of + within) ** 0.5
    return (share + shift + torch.tensor([-half, half])) / (1 + 1.96**2 / of)
