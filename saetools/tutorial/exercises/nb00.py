"""Checks of notebook 00."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from saetools.penalties import frequency_penalty
from saetools.training.models import Output
from saetools.tutorial.exercises.feedback import print_verdict

KINDS = ("never on", "always on", "near rho", "elsewhere")


def check_triage(answer: Callable[[Tensor, float], Mapping[str, Any]]) -> None:
    """Notebook 00, exercise 1: how many units are never on, always on, near rho, elsewhere."""

    def find_mistake() -> str | None:
        # From 2 networks of 6 units; at rho = 0.7 other units are near.
        frequency = torch.tensor(
            [[0.0, 0.0, 0.005, 0.992, 1.0, 0.998], [0.19, 0.215, 0.5, 0.69, 0.05, 0.3]]
        )
        for rho in (0.2, 0.7):
            given = frequency.clone()
            got = answer(given, rho)
            if not isinstance(got, Mapping) or set(got) != set(KINDS):
                return f"expected a dict with the keys {', '.join(KINDS)}, got {got!r}."
            if not torch.equal(given, frequency):
                return "it changes the frequencies that it was given."
            counts = {}
            for kind in KINDS:
                if isinstance(got[kind], Tensor) and got[kind].numel() != 1:
                    return (
                        f"{kind}: expected one number, got shape {tuple(got[kind].shape)}: sum "
                        "over all units."
                    )
                counts[kind] = int(got[kind])
            near = 2 if rho == 0.2 else 1
            mistake = _mistaken_counts(counts, frequency, rho, near)
            if mistake:
                return mistake
        return None

    print_verdict("Exercise 1", find_mistake)


def _mistaken_counts(
    counts: Mapping[str, int], frequency: Tensor, rho: float, near: int
) -> str | None:
    if counts["never on"] != 2:
        if counts["never on"] == 3:
            return (
                "a unit that is on for 0.5 % of the rows is not dead: count the frequencies that "
                "are exactly 0."
            )
        return f"never on: 2 of these units have the frequency 0, got {counts['never on']}."
    if counts["always on"] != 3:
        if counts["always on"] == 1:
            return "always on means on for over 99 % of the rows here, not only for all of them."
        return f"always on: 3 of these units are on for over 99 %, got {counts['always on']}."
    if counts["near rho"] != near:
        if counts["near rho"] == 0:
            return (
                "near rho: no frequency is equal to rho to the last digit: ask for a distance "
                "below 0.02."
            )
        if counts["near rho"] == int((frequency - rho < 0.02).sum()):
            return "near rho: units far below rho are counted as well: take the absolute distance."
        if rho != 0.2 and counts["near rho"] == 2:
            return "near rho: the target is 0.2 whatever rho is: use the argument."
        return (
            f"near rho: {near} of these units are within 0.02 of {rho}, got {counts['near rho']}."
        )
    if sum(counts.values()) != frequency.numel():
        return (
            f"each unit belongs to one kind: the counts must add up to {frequency.numel()}, "
            f"got {sum(counts.values())}."
        )
    return None


def check_loss(answer: Callable[[Output, Tensor, float, float], Any]) -> None:
    """Notebook 00, exercise 2: mean squared error plus the weighted penalty."""

    def find_mistake() -> str | None:
        generator = torch.Generator().manual_seed(0)
        decode = torch.randn(4, 20, generator=generator)
        batch = torch.rand(50, 20, generator=generator)
        pre = torch.randn(50, 4, generator=generator).requires_grad_()
        latents = pre.relu()
        output = Output((latents @ decode).sigmoid(), latents, pre)
        rho, weight = 0.35, 0.5
        got = answer(output, batch, rho, weight)
        if not isinstance(got, Tensor) or got.shape != ():
            shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
            return f"expected one number, a tensor of shape (), got {shape}."
        if not got.requires_grad:
            return (
                "the loss has no gradient at all: keep it a tensor, without .item() or .detach()."
            )
        squares = (output.reconstruction - batch).square()
        penalty = frequency_penalty(pre, rho=rho)
        right = squares.mean() + weight * penalty
        if not torch.allclose(got, right, rtol=1e-3):
            return _mistaken_loss(got, squares, penalty, pre, weight) or (
                f"expected {right.item():.4f}, got {got.item():.4f}."
            )
        slopes = {
            "right": right,
            "error": squares.mean(),
            "latents": squares.mean() + weight * frequency_penalty(latents, rho=rho),
        }
        slope = _slope(got, pre)
        if torch.allclose(slope, _slope(slopes["right"], pre), rtol=1e-2, atol=1e-5):
            return None
        if torch.allclose(slope, _slope(slopes["error"], pre), atol=1e-7):
            return (
                "the value is right, and the gradient is that of the error alone: the penalty that "
                "you add has none."
            )
        if torch.allclose(slope, _slope(slopes["latents"], pre), atol=1e-7):
            return (
                "the value is right, and a unit that is off gets no pull: the penalty must see "
                "output.pre_activations, not the latents behind the ReLU."
            )
        return "the value is right, and the gradient is not that of frequency_penalty."

    print_verdict("Exercise 2", find_mistake)


def _mistaken_loss(
    got: Tensor, squares: Tensor, penalty: Tensor, pre: Tensor, weight: float
) -> str | None:
    error = squares.mean()
    known = (
        (error, "the penalty is missing."),
        (weight * penalty, "the error is missing."),
        (error + penalty, "the weight is missing: 0.5 was asked for."),
        (error - weight * penalty, "the penalty must be added: subtracted, it is rewarded."),
        (squares.sum() + weight * penalty, "the squared error is summed: take its mean."),
        (
            squares.sum(-1).mean() + weight * penalty,
            "the squared error is summed over the features: take the mean over all entries.",
        ),
        (
            error.sqrt() + weight * penalty,
            "that is the root of the mean squared error: leave the root out.",
        ),
        (
            error + weight * frequency_penalty(pre, rho=0.2),
            "rho is 0.2 whatever was asked for: use the argument.",
        ),
    )
    return next((why for wrong, why in known if torch.allclose(got, wrong, rtol=1e-3)), None)


def _slope(loss: Tensor, at: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
    return torch.zeros_like(at) if slope is None else slope
