"""Checks of notebook 03."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import (
    exercise,
    gradient,
    is_close,
    known_mistake,
    no_number,
    one_number,
    wrong_shape,
)


@exercise(1)
def check_straight_through(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """Notebook 03, exercise 1: the hard count with the gradient of a ramp of width 6 T."""
    z = torch.tensor([[-2.0, -0.2], [-0.5, 0.1], [0.3, 0.4], [1.0, -0.1]], requires_grad=True)
    temperature = 0.25
    width = 6 * temperature
    got = answer(z * 1, temperature)
    if mistake := wrong_shape(got, (2,), "one number per unit for z of shape (4, 2)"):
        return mistake
    soft = (z / width + 0.5).clamp(0, 1).mean(0)
    if is_close(got, soft):
        return "that is the soft count: its value must be the hard one, its gradient the ramp's."
    if is_close(got, 0.5 + soft):
        return "the soft count is added to the hard one: subtract soft.detach(), so that it is 0."
    if not is_close(got, torch.full((2,), 0.5)):
        return f"the value must be the hard count, [0.5, 0.5], got {got.tolist()}."
    if not got.requires_grad:
        return "the value is right, and there is no gradient: add soft - soft.detach()."

    def ramp_from(low: float, high: float) -> Tensor:
        return ((low < z) & (z < high)).float() / (high - low) / 4

    pull, ramp = gradient(got, z), ramp_from(-width / 2, width / 2)
    if not pull.any():
        return "no gradient arrives at z: detach only the copy of soft that is subtracted."
    sigmoid = (z / temperature).sigmoid()
    known: dict[str, Tensor | float] = {
        "the gradient has the wrong sign: detach the soft that is subtracted.": -ramp,
        "the gradient lacks the factor 1 / (6 T): divide z by 6 T inside the ramp.": ramp * width,
        "the ramp begins at 0: add 1/2, so that it is 1/2 there and reaches either side.": (
            ramp_from(0, width)
        ),
        "z / 6 * T multiplies by T: write z / (6 * T).": (
            ramp_from(-3 / temperature, 3 / temperature)
        ),
        "the ramp is 6 T wide, not T: divide z by 6 T.": (
            ramp_from(-temperature / 2, temperature / 2)
        ),
        "the temperature is a fixed number: take the argument.": ramp_from(-0.9, 0.9),
        "that is the gradient of the sigmoid: here the ramp's is asked for.": (
            sigmoid * (1 - sigmoid) / temperature / 4
        ),
    }
    if mistake := known_mistake(pull, known):
        return mistake
    if not pull[z.detach() < 0].any():
        return (
            "a row on which the unit is off gets no gradient: the ramp must see z as it is, "
            "before any ReLU."
        )
    if not is_close(pull, ramp):
        return f"the gradient must be that of the ramp, {ramp.tolist()}, got {pull.tolist()}."
    if answer(torch.zeros(4, 2), temperature).any():
        return "a unit is on where z is greater than 0, and not at 0 itself."
    return None


# spread at the start -> mean hard frequency after training, and the tolerance
SETTLED = {0.1: (0.0, 0.01), 0.3: (0.04, 0.03), 1.0: (0.2, 0.015), 3.0: (0.2, 0.025)}


@exercise(2)
def check_spread_needed(answer: Callable[[], Any]) -> str | None:
    """Notebook 03, exercise 2: where the hard count settles, by the spread at the start."""
    got = answer()
    if not isinstance(got, Mapping) or {one_number(spread) for spread in got} != set(SETTLED):
        return f"expected a dict with the keys {', '.join(map(str, SETTLED))}, got {got!r}."
    found = {}
    for spread, value in got.items():
        if (number := one_number(value)) is None:
            return f"{spread}: expected one mean over all units, got {no_number(value)}."
        found[float(spread)] = number
    if 2 < max(found.values()) <= 100:
        return "those are per cent: a frequency is a share, from 0 to 1."
    if all(abs(value - 0.2) < 1e-3 for value in found.values()):
        return "0.2 everywhere: those are the frequencies before training."
    if abs(found[0.1] - 0.2) < 0.02:
        return (
            "near 0.2 at a spread of 0.1: that is the soft count, with which the penalty is "
            "content; or the units still have a spread of 1 at the start, or biases as before; or "
            "training was not on the plain soft count at T = 0.3."
        )
    if max(found.values()) < 0.01:
        return "0 everywhere: is the spread at the start the one that was asked for?"
    for spread, (expected, tolerance) in SETTLED.items():
        if abs(found[spread] - expected) > tolerance:
            return (
                f"{spread}: expected {expected} give or take {tolerance}, got {found[spread]:.3f}. "
                "Scale weights and biases of the code's layer alike, keep T at 0.3, and train 300 "
                "steps from 4 seeds."
            )
    return None
