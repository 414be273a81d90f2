"""Checks of notebook 08."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import (
    exercise,
    is_close,
    known_mistake,
    no_number,
    one_number,
    wrong_shape,
)


@exercise(1)
def check_next_threshold(answer: Callable[[Tensor, Tensor, float, float], Any]) -> str | None:
    """Notebook 08, exercise 1: where the thresholds are after a batch."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(400, 3, generator=generator) * torch.tensor([1.0, 2.0, 5.0])
    theta, rho, rate = torch.tensor([0.5, 3.0, 20.0]), 0.1, 0.04
    got = answer(theta.clone(), z.clone(), rho, rate)
    if mistake := wrong_shape(got, (3,), "one threshold per latent"):
        return mistake
    share, spread = (z > theta).float().mean(0), z.std(0)
    step = rate * spread
    miss = share / rho - 1
    known = {
        "the wrong way: a latent that is on too often needs a higher one.": theta - step * miss,
        "one step for all: measure it in each latent's own spread.": theta + rate * miss,
        "the old threshold is lost: add to it.": step * miss,
        "that is f - rho: divide by rho, or rare latents hardly move.": theta
        + step * (share - rho),
        "counted above 0: count above theta.": theta + step * ((z > 0).float().mean(0) / rho - 1),
        "one share for all: count each latent's rows.": theta + step * (share.mean() / rho - 1),
        "one spread for all: measure each step in the latent's own, `z.std(0)`.": (
            theta + rate * z.std() * miss
        ),
        "that is the variance: a step is measured in spreads, its root.": (
            theta + step * spread * miss
        ),
        "f / rho - 1, and not rho / f - 1, which is infinite for a latent that is never on.": (
            theta + step * (rho / share - 1)
        ),
        "that is 1 - rho / f: divide by rho.": theta + step * (1 - rho / share),
        "subtract 1: at f = rho a threshold stays where it is.": theta + step * share / rho,
        "the rate is missing.": theta + spread * miss,
        "that is a count: f is a share of the rows.": (theta + step * (share * len(z) / rho - 1)),
        "counted below theta: count above.": theta + step * ((1 - share) / rho - 1),
        "theta is multiplied: a step is added to it.": theta * (1 + step * miss),
        "the spread of z where it passes: take that of all of z.": (
            theta + rate * (z * (z > theta)).std(0) * miss
        ),
        "that is where rho is met on this batch at once: take a small step from theta.": (
            z.quantile(1 - rho, dim=0)
        ),
    }
    # With or without Bessel's correction of the spread.
    if is_close(got - theta, step * miss, rtol=5e-3):
        return None
    wrong = known_mistake(got, known, rtol=2e-4)
    expected, found = ([round(v, 3) for v in x.tolist()] for x in (theta + step * miss, got))
    return wrong or f"expected {expected}, got {found}: theta + rate * spread * (f / rho - 1)."


@exercise(2)
def check_common_threshold(answer: Callable[[Tensor, float], Any]) -> str | None:
    """Notebook 08, exercise 2: the one threshold above which a row has so many latents."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(300, 20, generator=generator) * torch.linspace(0.2, 3.0, 20)
    for l0 in (2, 0.5):
        got = answer(z.clone(), l0)
        if one_number(got) is None:
            return f"expected one number for all latents, got {no_number(got)}."
        on = float((z > float(got)).sum(1).float().mean())
        if abs(on - l0) < 0.02:
            continue
        known = {
            "that is the quantile of l0 / L from below: few are to be above.": z.quantile(l0 / 20),
            "that lets l0 of all values pass: l0 is per row.": z.flatten().topk(max(round(l0), 1))[
                0
            ][-1],
            "the mean of the latents' own thresholds is no common one.": (
                z.quantile(1 - l0 / 20, dim=0).mean()
            ),
            "the mean of the rows' own thresholds: rows differ, and l0 is their average.": (
                z.topk(max(round(l0), 1), dim=1).values[:, -1].mean()
            ),
            "the median of the rows' own thresholds: rows differ, and l0 is their average.": (
                z.topk(max(round(l0), 1), dim=1).values[:, -1].median()
            ),
            "of all values a share l0 / L passes, and not l0 / B.": (
                z.flatten().quantile(1 - l0 / len(z))
            ),
            "of all values a share l0 / L passes, and not l0.": (
                z.flatten().quantile(max(1 - l0, 0))
            ),
            "negative values are never on: leave out the abs().": (
                z.abs().flatten().quantile(1 - l0 / 20)
            ),
            "the mean of a quantile per row: take one of all values.": (
                z.quantile(1 - l0 / 20, dim=1).mean()
            ),
        }
        why = known_mistake(float(got), known, rtol=0.01)
        return why or f"a row has {on:.2f} latents above {float(got):.3f}, and not {l0}."
    return None
