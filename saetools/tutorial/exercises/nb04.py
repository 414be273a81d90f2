"""Checks of notebook 04."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import print_verdict


def check_add_one(answer: Callable[[Tensor, float], Tensor]) -> None:
    """Notebook 04, exercise 1: a straight-through frequency from add-one counts."""

    def find_mistake() -> str | None:
        column = torch.linspace(-1, 1, 7).double()
        pre = torch.stack([-1 - column.abs(), column, 1 + column.abs()], dim=-1)  # (7, 3)
        leaf = pre.clone().requires_grad_()
        got = answer(leaf * 1, 0.5)
        if not isinstance(got, Tensor) or got.shape != (3,):
            return "expected one number a unit: a tensor of shape (3,) for a batch (7, 3)."
        if mistake := _wrong_count(got.detach().double(), pre):
            return mistake
        if not got.requires_grad:
            return "the result has no grad_fn: keep the gradient of the sigmoid."
        (gradient,) = torch.autograd.grad(got.sum(), leaf, allow_unused=True)
        if gradient is None or not gradient.any():
            return "no gradient arrives at the pre-activations."
        soft = torch.sigmoid(pre / 0.5)
        right = soft * (1 - soft) / 0.5 / 9
        if not torch.allclose(gradient, right):
            ratio = (gradient / right).flatten()
            if torch.allclose(ratio, ratio[:1].expand_as(ratio)):
                return (
                    f"the gradient is {ratio[0].item():.3g} times what it should be: that of the "
                    "sigmoid of pre_activations / temperature, summed and divided by rows + 2."
                )
            if not gradient[:, [0, 2]].any():
                return "the unit that is dead and the one that is always on get no gradient."
            return "the gradient is not that of the sigmoid of pre_activations / temperature."
        stacked = answer(torch.stack([pre, -pre]), 0.5)
        if stacked.shape != (2, 3) or not torch.allclose(stacked[0].double(), got.double()):
            return "an ensemble (N, B, L) must give (N, L): sum over dim -2, not over dim 0."
        return None

    print_verdict("Exercise 1", find_mistake)


def _wrong_count(got: Tensor, pre: Tensor) -> str | None:
    active, rows = (pre > 0).double().sum(0), len(pre)

    def is_(expected: Tensor) -> bool:
        return torch.allclose(got, expected)

    if is_((active + 1) / (rows + 2)):
        return None
    if is_(active / rows):
        return "that is the plain frequency, 0 and 1 included: add the two rows."
    if is_((active + 1) / rows):
        return "the two rows that were added belong in the denominator as well: it exceeds 1."
    if is_((active + 1) / (rows + 1)):
        return "two rows are added, one on and one off: a unit that is always on still gets 1."
    if is_((active + 1) / (128 + 2)):
        return "the batch has 7 rows, not 128: take the number of rows from the tensor."
    if is_((torch.sigmoid(pre / 0.5).sum(0) + 1) / (rows + 2)):
        return "that is the soft count: the value must be the hard one, the gradient the soft one."
    return f"expected {((active + 1) / (rows + 2)).tolist()}, got {got.tolist()}."


def check_eps_for_push(answer: Callable[..., float]) -> None:
    """Notebook 04, exercise 2: the eps for which a dead unit is pushed with a given slope."""

    def find_mistake() -> str | None:
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

    print_verdict("Exercise 2", find_mistake)
