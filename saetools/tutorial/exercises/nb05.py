"""Checks of notebook 05."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import exercise, known_mistake


@exercise(1)
def check_shift_bias(answer: Callable[[Tensor, Tensor, Tensor], Any]) -> str | None:
    """Notebook 05, exercise 1: a bias shifted in place, so that each unit gets its own rho."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, 3, generator=generator) * torch.tensor([0.01, 1.0, 50.0])
    rho, start = torch.tensor([0.1, 0.25, 0.6]), torch.tensor([0.02, -1.5, 70.0])
    pre = values + start  # as a layer with this bias returns them
    bias, given = start.clone(), pre.clone()
    returned = answer(bias, given, rho.clone())
    if not torch.equal(given, pre):
        return "it changes pre_activations: only the bias may change."
    if torch.equal(bias, start):
        if isinstance(returned, Tensor) and not torch.equal(returned, start):
            return "the bias that was given is still the same: change it in place, with sub_."
        return "the bias is still what it was."
    if not bias.isfinite().all():
        return f"the bias must stay finite, got {bias.tolist()}."
    frequency = (values + bias > 0).double().mean(0)
    if (frequency - rho).abs().max() <= 0.002:
        return None
    wanted, other = (pre.quantile(share, dim=0).diagonal() for share in (1 - rho, rho))
    mean, pooled = pre.mean(0), pre.flatten().quantile(1 - rho)
    known: dict[str, Tensor | float] = {
        "that is the quantile rho, with a share rho of the rows below, not above.": start - other,
        "the wrong way round: the quantile has to move to 0, so subtract it.": start + wanted,
        "the old bias is lost: the pre-activations contain it, so subtract from it.": -wanted,
        "that subtracts the mean, which takes no notice of rho.": start - mean,
        "that is a quantile over all units together: take it unit by unit.": start - pooled,
    }
    for one in rho:
        same = start - pre.quantile(1 - one, dim=0)
        known[f"every unit has the same target now, {one:g}: rho holds one per unit."] = same
    asked, got = (", ".join(f"{x:.3g}" for x in share.tolist()) for share in (rho, frequency))
    return known_mistake(bias, known, rtol=1e-2, atol=1e-3) or (
        f"asked for {asked}, the units are now active on {got} of the rows."
    )


@exercise(2)
def check_mixed_share(answer: Callable[[Tensor], Any]) -> str | None:
    """Notebook 05, exercise 2: the share of rows with a unit that is on and one that is off."""
    kinds = {"none": [-1.0, -2.0, 0.0], "mixed": [2.0, -1.0, 0.0], "all": [1.0, 2.0, 0.5]}
    # One unit is on for most rows: a count over rows and one over units tell apart.
    pre = torch.tensor([kinds["none"]] + [kinds["mixed"]] * 6 + [kinds["all"]] * 3)  # (10, 3)
    got = answer(pre)
    if isinstance(got, Tensor) and got.numel() != 1:
        return f"expected one number, a share of the rows, got shape {tuple(got.shape)}."
    share = float(got)
    if abs(share - 0.6) < 1e-6:
        return None
    known = {
        "that is a count: divide by the number of rows that are there.": 6.0,
        "rows with all units on are counted as well: one unit must be off.": 0.9,
        "rows with no unit on are counted as well: one must be on, and a unit at 0 is off.": 0.7,
        "those are the rows that are not mixed: take the others.": 0.4,
        "that looks at each unit over the rows: look at each row over its units, dim=1.": 1.0,
        "that is the mean activation frequency, which says nothing about single rows.": 0.5,
    }
    return known_mistake(share, known, atol=1e-4) or (
        f"6 of these 10 rows have a unit that is on and one that is off; got {share:.4g}."
    )
