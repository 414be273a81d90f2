"""Checks of notebook 04."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import (
    exercise,
    gradient,
    is_close,
    known_mistake,
    wrong_shape,
)


@exercise(1)
def check_add_one(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """Notebook 04, exercise 1: a straight-through frequency from add-one counts."""
    column = torch.linspace(-1, 1, 7).double()
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
    if stacked.shape != (2, 3) or not is_close(stacked[0], got):
        return "an ensemble (N, B, L) must give (N, L): sum over dim -2, not over dim 0."
    return None


@exercise(2)
def check_eps_for_push(answer: Callable[..., float]) -> str | None:
    """Notebook 04, exercise 2: the eps for which a dead unit is pushed with a given slope."""
    for push, rho in ((200.0, 0.2), (25.0, 0.2), (5.0, 0.05), (3.0, 0.5)):
        got = answer(push, rho=rho)
        if not isinstance(got, int | float | Tensor):
            return f"expected a number, got {type(got).__name__}."
        eps = float(got)
        where = f"push = {push:g}, rho = {rho:g}"
        if not 0 < eps < 0.5:
            other = " (the other root of the square?)" if eps >= 0.5 else ""
            return f"{where}: eps must lie between 0 and 0.5, got {eps:.4g}{other}."
        reached = (1 - 2 * eps) * (rho - eps) / (eps * (1 - eps))
        if math.isclose(reached, push, rel_tol=1e-3):
            continue
        says = f"{where}: your eps = {eps:.4g} gives a push of {reached:.4g}"
        if math.isclose(eps, rho / push, rel_tol=1e-6):
            return f"{says}. rho / eps is the rule of thumb; solve for the exact slope."
        if math.isclose(eps, rho / (1 + push), rel_tol=1e-6):
            return f"{says}. Keep the factors (1 - 2 eps) and (1 - eps) as well."
        if math.isclose((rho - eps) / (eps * (1 - eps)), push, rel_tol=1e-3):
            return f"{says}. That is the KL's slope at eps; smoothing brings in (1 - 2 eps)."
        return f"{says}."
    return None
