"""Checks of notebook 04."""

import math
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
def check_add_one(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """Notebook 04, exercise 1: a straight-through frequency from add-one counts."""
    column = torch.arange(-3, 4).double() / 3
    pre = torch.stack([-1 - column.abs(), column, 1 + column.abs()], dim=-1)  # (7, 3)
    leaf = pre.clone().requires_grad_()
    got = answer(leaf * 1, 0.5)
    if mistake := wrong_shape(got, (3,), "one number per unit for a batch (7, 3)"):
        return mistake
    soft, active, rows = torch.sigmoid(pre / 0.5), (pre > 0).double().sum(0), len(pre)
    right = (active + 1) / (rows + 2)
    if not is_close(got, right):
        known = {
            "that is the plain frequency, 0 and 1 included: add the two rows.": active / rows,
            "the two rows belong in the denominator as well: it exceeds 1.": (active + 1) / rows,
            "two rows are added: a unit that is always on still gets 1.": (active + 1) / (rows + 1),
            "the batch has 7 rows, not 128: take their number from the tensor.": (active + 1) / 130,
            "that is the soft count: only the gradient is soft.": (soft.sum(0) + 1) / (rows + 2),
            "that is smoothing with eps = 0.001: add-one counts have an eps of 1 / (rows + 2).": (
                0.001 + 0.998 * active / rows
            ),
            "eps is 1 / (rows + 2), not 1 / rows.": (active + 1 - 2 * active / rows) / rows,
            "3 is the number of units: the rows are dim -2.": (active + 1) / (3 + 2),
            "a unit is on where z is greater than 0, and not at 0 itself.": (
                ((pre >= 0).sum(0) + 1) / (rows + 2)
            ),
        }
        return known_mistake(got, known) or f"expected {right.tolist()}, got {got.tolist()}."
    if not got.requires_grad:
        return "the result has no grad_fn: keep the gradient of the sigmoid."
    pull = gradient(got, leaf)
    if not pull.any():
        return "no gradient arrives at the pre-activations."
    ratio = pull / (soft * (1 - soft) / 0.5 / 9)
    if not is_close(ratio, 1.0):
        if is_close(ratio, ratio[0, 0]):
            return (
                f"the gradient is {ratio[0, 0]:.3g} times what it should be: that of the "
                "sigmoid of pre_activations / temperature, summed and divided by rows + 2."
            )
        if not pull[:, [0, 2]].any():
            return "the unit that is dead and the one that is always on get no gradient."
        return "the gradient is not that of the sigmoid of pre_activations / temperature."
    stacked = answer(torch.stack([pre, -pre]), 0.5)
    if stacked.shape == (2, 3) and is_close(stacked[0], (active + 1) / (2 + 2)):
        return "len counts the networks of an ensemble (N, B, L): the rows are shape[-2]."
    if stacked.shape != (2, 3) or not is_close(stacked[0], got):
        return "an ensemble (N, B, L) must give (N, L): sum over dim -2, not over dim 0."
    return None


# eps -> mean frequency after training over rho = 0.05, on batches of 32 rows, and the tolerance
SETTLED = {1e-3: (2.9, 0.6), 1 / 130: (1.46, 0.3), 1 / 34: (0.25, 0.2)}


@exercise(2)
def check_rare_units(answer: Callable[[], Any]) -> str | None:
    """Notebook 04, exercise 2: where rare units settle on small batches, for three eps."""
    got = answer()
    if not isinstance(got, Mapping) or len(got) != 3:
        return f"expected a dict with three eps, 0.001, 1 / 130 and 1 / 34, got {got!r}."
    found = {}
    for eps in SETTLED:
        near = [value for key, value in got.items() if _is_near(key, eps)]
        if len(near) != 1:
            return f"eps = {eps:.4f} is missing: the keys are {', '.join(map(str, got))}."
        if (number := one_number(near[0])) is None:
            return f"expected one mean over all units, got {no_number(near[0])}."
        found[eps] = number
    first, middle, last = found.values()
    if all(abs(value / 0.05 - SETTLED[eps][0]) <= SETTLED[eps][1] for eps, value in found.items()):
        return "those are frequencies: divide them by rho."
    if max(found.values()) - min(found.values()) < 0.01 and abs(first - 1) > 0.01:
        return "eps makes no difference: smooth rho_hat; a clamp leaves silent units silent."
    if max(found.values()) < 0.5:
        return "hardly a unit is on: train on the straight-through count, not on the soft one."
    if max(abs(value - 1) for value in (first, middle, last)) < 0.01:
        return "1 for all: those are the frequencies before training."
    if first < 1.9:
        return (
            f"{first:.2f} at eps = 0.001: on batches of 128 rows it is 1.1 to 1.5, on 32 more "
            "than 2. Pass batch_size=32, and ask for rho = 0.05."
        )
    for (eps, (expected, tolerance)), value in zip(SETTLED.items(), found.values(), strict=True):
        if abs(value - expected) > tolerance:
            return (
                f"eps = {eps:.4f}: expected {expected} give or take {tolerance}, got {value:.2f}. "
                "Start from initialise_for_frequency_ at 0.05, and average over the 32 units."
            )
    return None


def _is_near(key: Any, eps: float) -> bool:
    number = one_number(key)
    return number is not None and math.isclose(number, eps, rel_tol=0.02)
