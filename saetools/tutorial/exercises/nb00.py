"""Checks of notebook 00."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from saetools.penalties import frequency_penalty
from saetools.training.models import Output
from saetools.tutorial.exercises.feedback import (
    exercise,
    gradient,
    is_close,
    known_mistake,
    wrong_shape,
)

KINDS = ("never on", "always on", "near rho", "elsewhere")
MISTAKES = {
    (
        "never on",
        3,
    ): "a unit that is on for 0.5 % of the rows is not dead: count those at exactly 0.",
    ("always on", 1): "always on means for over 99 % of the rows here, not only for all of them.",
    ("near rho", 0): "no frequency is rho to the last digit: ask for a distance below 0.02.",
    ("near rho", 6): "units far below rho are counted as well: take the absolute distance.",
    ("near rho", 2): "the target is 0.2 whatever rho is: use the argument.",
    ("elsewhere", 12): "each unit is of one kind: leave those out that are of another.",
}


@exercise(1)
def check_triage(answer: Callable[[Tensor, float], Mapping[str, Any]]) -> str | None:
    """Notebook 00, exercise 1: how many units are never on, always on, near rho, elsewhere."""
    # From 2 networks of 6 units.
    frequency = torch.tensor(
        [[0.0, 0.0, 0.005, 0.992, 1.0, 0.998], [0.19, 0.215, 0.5, 0.69, 0.05, 0.3]]
    )
    for rho, near in ((0.2, 2), (0.7, 1)):
        given = frequency.clone()
        got = answer(given, rho)
        if not isinstance(got, Mapping) or set(got) != set(KINDS):
            return f"expected a dict with the keys {', '.join(KINDS)}, got {got!r}."
        if not torch.equal(given, frequency):
            return "it changes the frequencies that it was given."
        for kind, right in zip(KINDS, (2, 3, near, 7 - near), strict=True):
            if isinstance(got[kind], Tensor) and got[kind].numel() != 1:
                shape = tuple(got[kind].shape)
                return f"{kind}: expected one number, got shape {shape}: sum over all units."
            if (count := int(got[kind])) != right:
                mistake = MISTAKES.get((kind, count), f"expected {right}, got {count}.")
                return f"{kind} for rho = {rho}: {mistake}"
    return None


@exercise(2)
def check_loss(answer: Callable[[Output, Tensor, float, float], Any]) -> str | None:
    """Notebook 00, exercise 2: mean squared error plus the weighted penalty."""
    generator = torch.Generator().manual_seed(0)
    decode = torch.randn(4, 20, generator=generator)
    batch = torch.rand(1000, 20, generator=generator)
    pre = torch.randn(1000, 4, generator=generator).requires_grad_()
    output = Output((pre.relu() @ decode).sigmoid(), pre.relu(), pre)
    rho, weight = 0.35, 0.5
    got = answer(output, batch, rho, weight)
    if mistake := wrong_shape(got, (), "one number"):
        return mistake
    if not got.requires_grad:
        return "the loss has no gradient at all: keep it a tensor, without .item() or .detach()."
    squares = (output.reconstruction - batch).square()
    error, penalty = squares.mean(), frequency_penalty(pre, rho=rho)
    right = error + weight * penalty
    if not is_close(got, right, rtol=1e-3):
        known = {
            "the penalty is missing.": error,
            "the error is missing.": weight * penalty,
            "the weight is missing: 0.5 was asked for.": error + penalty,
            "the penalty must be added: subtracted, it is rewarded.": error - weight * penalty,
            "the squared error is summed: take its mean.": squares.sum() + weight * penalty,
            "the squared error is summed over the features: take the mean over all entries.": (
                squares.sum(-1).mean() + weight * penalty
            ),
            "that is the root of the error: leave the root out.": error.sqrt() + weight * penalty,
            "rho is 0.2 whatever was asked for: use the argument.": (
                error + weight * frequency_penalty(pre, rho=0.2)
            ),
        }
        return known_mistake(got, known) or f"expected {right.item():.4f}, got {got.item():.4f}."
    pull = gradient(got, pre)
    if is_close(pull, gradient(right, pre), rtol=1e-2, atol=5e-7):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says what is wrong here
        blind = error + weight * frequency_penalty(output.latents, rho=rho)
    known = {
        "the gradient is that of the error alone: your penalty has none.": gradient(error, pre),
        "a unit that is off gets no pull: the penalty must see output.pre_activations, not the "
        "latents behind the ReLU.": gradient(blind, pre),
    }
    mistake = known_mistake(pull, known, atol=5e-9)
    return f"the value is right, and {mistake or 'the gradient is not that of frequency_penalty.'}"
