"""Checks of notebook 09."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saetools.frequency import activation_frequency, straight_through_frequency
from saetools.penalties import frequency_penalty
from saetools.reuse.routing import top_k_margins
from saetools.tutorial.exercises.feedback import (
    exercise,
    gradient,
    is_close,
    known_mistake,
    wrong_shape,
)


@exercise(1)
def check_top_k_gate(answer: Callable[[Tensor, int, float], Any]) -> str | None:
    """Notebook 09, exercise 1: 1 for the k largest of a row, with a slope for all of them."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(9, 6, generator=generator).requires_grad_()
    k, temperature = 2, 0.3
    got = answer(scores, k, temperature)
    if mistake := wrong_shape(got, (9, 6), "one gate per score"):
        return mistake
    if not got.requires_grad:
        return "no gradient: a comparison has none, so add (soft - soft.detach())."
    margins = top_k_margins(scores, k)
    hard = (margins > 0).float()
    above_kth = (scores > scores.topk(k, dim=-1).values[:, -1:]).float()
    values = {
        "only k - 1 of a row are on: the k-th is not greater than itself.": above_kth,
        "that is the soft value: it must be exactly 0 or 1.": torch.sigmoid(margins / temperature),
        "on where the score is above 0: ask for the k largest of the row.": (scores > 0).float(),
        "the k-th and the next are one too far: `topk(k + 1)`, its last two.": _ones(scores, k + 1),
        "that is soft where it is on: it must be exactly 1 there.": (
            hard * torch.sigmoid(margins / temperature)
        ),
        "the value is hard + soft: subtract soft.detach(), so that the slope alone is added.": (
            hard + torch.sigmoid(margins / temperature)
        ),
        "the k largest of each column: each row has its own, `dim=-1`.": _ones(scores.T, k).T,
        "the k largest of all scores: each row has its own, `dim=-1`.": (
            _ones(scores.flatten(), k).view_as(scores)
        ),
        "the mean of the k + 1 largest is no place between the k-th and the next.": (
            scores > scores.topk(k + 1, dim=-1).values.mean(-1, keepdim=True)
        ).float(),
    }
    if not is_close(got, hard, atol=1e-6):
        return known_mistake(got, values) or "each row must have exactly k ones, at its k largest."
    slope = gradient(got, scores)
    soft = torch.sigmoid(margins / temperature)
    if is_close(slope, gradient(soft, scores), atol=1e-5):
        return None
    largest = scores.topk(k + 1, dim=-1).values
    joined = torch.sigmoid((scores - largest[:, k - 1 :].mean(-1, keepdim=True)) / temperature)
    known = {
        "the place moves with the scores: detach it, so that each answers for itself.": (
            gradient(joined, scores)
        ),
        "the slope is taken at 0, and not at the place between k and k + 1.": (
            gradient(torch.sigmoid(scores / temperature), scores)
        ),
        "the slope is taken at the k-th score, and not half-way to the next.": (
            gradient(torch.sigmoid((scores - largest[:, k - 1 : k].detach()) / temperature), scores)
        ),
        "the slope is taken at the score after the k-th, and not half-way to it.": (
            gradient(torch.sigmoid((scores - largest[:, k:].detach()) / temperature), scores)
        ),
        "multiplied by the temperature: divide by it.": (
            gradient(torch.sigmoid(margins * temperature), scores)
        ),
        "the slope is 1 everywhere: a sigmoid's is largest at the place, and small far from it.": (
            torch.ones_like(scores)
        ),
        "only the k that are on have a slope: the others could never rise.": (
            gradient(hard * soft / soft.detach(), scores)
        ),
        "a softmax sums to 1 in a row, so that scores answer for each other: take a sigmoid.": (
            torch.zeros_like(scores)
        ),
    }
    return known_mistake(slope, known) or "the values are right, and the slope is not the soft one."


def _ones(scores: Tensor, k: int) -> Tensor:
    """1 at the k largest of the last dim."""
    return torch.zeros_like(scores).scatter(-1, scores.topk(k, dim=-1).indices, 1.0)


@exercise(2)
def check_at_least(answer: Callable[[Tensor, float, float], Any]) -> str | None:
    """Notebook 09, exercise 2: a penalty for units that are on too rarely, and for no other."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 5, generator=generator) + torch.tensor([-9.0, -1.5, 0.5, 2.0, 0.0])
    z[:, 4] = 0.1 * z[:, 4] - 0.1  # seldom on, and its soft count is near a half
    z.requires_grad_()
    rho, temperature = 0.3, 0.5
    got = answer(z, rho, temperature)
    if mistake := wrong_shape(got, (), "one number"):
        return mistake
    if not got.requires_grad:
        return "no gradient: count straight through."
    rho_hat = straight_through_frequency(z, temperature)
    soft = torch.sigmoid(z / temperature).mean(0)
    missing = (rho - rho_hat).clamp(min=0).square()
    if is_close(got, missing.sum(), atol=1e-6):
        if is_close(gradient(got, z), gradient(missing.sum(), z), atol=1e-7):
            return None
        return "the value is right, and the gradient is not that of the soft count."
    hard, too_few = activation_frequency(z), (rho - rho_hat)[rho_hat < rho]
    known = {
        "units that are on often enough must cost nothing.": (rho - rho_hat).square().sum(),
        "that is for units that are on too often.": (rho_hat - rho).clamp(min=0).square().sum(),
        "that is the soft count, which can be rho while the unit is never on.": (
            (rho - soft).clamp(min=0).square().sum()
        ),
        "the mean over the units: sum them, so that a unit's pull does not depend on the others.": (
            missing.mean()
        ),
        "square what is missing.": (rho - rho_hat).clamp(min=0).sum(),
        "the soft count says who is on too rarely: ask the hard one, as the value does.": (
            (soft < rho) * (rho - rho_hat).square()
        ).sum(),
        "the mean over the units that are on too rarely: sum them.": too_few.square().mean(),
        "square what each unit misses, and then sum.": too_few.sum().square(),
        "that is the miss as a share of rho: take rho - rho_hat.": (too_few / rho).square().sum(),
        "that is the mean over the units of each row: a frequency is a mean over the rows.": (
            (rho - (z > 0).float().mean(1)).clamp(min=0).square().sum()
        ),
        "that is a number of rows: divide by how many there are.": (
            (rho - len(z) * rho_hat).clamp(min=0).square().sum()
        ),
        "that is the KL: here the square of the miss is asked for.": (
            frequency_penalty(z, rho=rho, temperature=temperature, weight=hard < rho)
        ),
    }
    off = [round(value, 2) for value in hard.tolist()]
    return known_mistake(got, known) or (
        f"of frequencies {off} expected {missing.sum().item():.4f}, got {got.item():.4f}."
    )
