"""Checks of notebook 00."""

import warnings
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from saetools.frequency import soft_frequency
from saetools.penalties import bernoulli_kl, frequency_penalty
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
    ("always on", 0): "a frequency is a share, from 0 to 1: 99 % is 0.99.",
    ("near rho", 0): "ask for a distance below 0.02: no frequency is rho to the last digit, and "
    "2 % of rho is far less.",
    ("near rho", 6): "units far below rho are counted as well: take the absolute distance.",
    ("near rho", 2): "the target is 0.2 whatever rho is: use the argument.",
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
        for kind in KINDS:
            if mistake := _no_count(got[kind]):
                return f"{kind}: {mistake}"
        counts = {kind: float(got[kind]) for kind in KINDS}
        if sum(counts.values()) == 6:
            return "6 of 12 units are counted: take all of them, whatever the shape."
        for kind, right in zip(KINDS, (2, 3, near, 7 - near), strict=True):
            if (count := counts[kind]) != right:
                mistake = MISTAKES.get((kind, int(count)), f"expected {right}, got {count:g}.")
                if kind == "elsewhere" and count > right:
                    mistake = "each unit is of one kind: leave those out that are of another."
                return f"{kind} for rho = {rho}: {mistake}"
    return None


def _no_count(got: Any) -> str | None:
    if isinstance(got, Tensor) and got.numel() != 1:
        return f"expected one number, got shape {tuple(got.shape)}: sum over all units."
    if not isinstance(got, (Tensor, Real)):
        return f"expected one number, got {type(got).__name__}."
    if 0 < float(got) < 1:
        return f"{float(got):.3g} is a share: count the units, with the sum of a mask."
    return None


@exercise(2)
def check_loss(answer: Callable[[Output, Tensor, float, float], Any]) -> str | None:
    """Notebook 00, exercise 2: mean squared error plus the weighted penalty."""
    generator = torch.Generator().manual_seed(0)
    decode = torch.randn(4, 20, generator=generator)
    batch = torch.rand(1000, 20, generator=generator)
    pre = torch.randn(1000, 4, generator=generator).requires_grad_()
    output = Output((pre.relu() @ decode).sigmoid(), pre.relu(), pre)
    rho, weight = 0.35, 0.6
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
            "the weight is missing: 0.6 was asked for.": error + penalty,
            "the weight is the penalty's alone: leave the error as it is.": (
                weight * (error + penalty)
            ),
            "the weight stands at the error: it is the penalty's.": weight * error + penalty,
            "the weight is applied twice.": error + weight**2 * penalty,
            "rho and weight have changed places.": (
                error + rho * frequency_penalty(pre, rho=weight)
            ),
            "the penalty is averaged over the units: it is their sum.": (
                error + weight * penalty / 4
            ),
            "that is a soft count's penalty: its value must be the hard count's.": (
                error + weight * bernoulli_kl(soft_frequency(pre, 0.3), rho=rho).sum()
            ),
            "that is the absolute error: square it.": squares.sqrt().mean() + weight * penalty,
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
        "the gradient is that of the penalty alone: your error has none.": (
            gradient(weight * penalty, pre)
        ),
        "a unit that is off gets no pull: the penalty must see output.pre_activations, not the "
        "latents behind the ReLU.": gradient(blind, pre),
    }
    mistake = known_mistake(pull, known, atol=5e-9)
    return f"the value is right, and {mistake or 'the gradient is not that of frequency_penalty.'}"
