"""Checks of notebook 08."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import exercise, is_close, known_mistake, wrong_shape


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
    }
    # With or without Bessel's correction of the spread.
    if is_close(got - theta, step * miss, rtol=5e-3):
        return None
    wrong = known_mistake(got, known, rtol=2e-4)
    return wrong or f"expected {(theta + step * miss).tolist()}, got {got.tolist()}."


@exercise(2)
def check_common_threshold(answer: Callable[[Tensor, float], Any]) -> str | None:
    """Notebook 08, exercise 2: the one threshold above which a row has so many latents."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(300, 20, generator=generator) * torch.linspace(0.2, 3.0, 20)
    for l0 in (2.0, 0.5):
        got = answer(z.clone(), l0)
        if isinstance(got, Tensor) and got.numel() > 1:
            return f"expected one number for all latents, got shape {tuple(got.shape)}."
        on = float((z > float(got)).sum(1).float().mean())
        if abs(on - l0) < 0.02:
            continue
        count = round(l0 * len(z))
        known = {
            "that is the quantile of l0 / L from below: few are to be above.": z.quantile(l0 / 20),
            "that lets l0 of all values pass: l0 is per row.": z.flatten().topk(max(round(l0), 1))[
                0
            ][-1],
            "the mean of the latents' own thresholds is no common one.": (
                z.topk(count // 20, dim=0).values[-1].mean()
            ),
        }
        why = known_mistake(float(got), known, rtol=0.02)
        return why or f"a row has {on:.2f} latents above {float(got):.3f}, and not {l0}."
    return None
