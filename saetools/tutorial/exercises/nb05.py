"""Checks of notebook 05."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import print_verdict


def check_shift_bias(answer: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
    """Notebook 05, exercise 1: a bias shifted in place, so that each unit gets its own rho."""

    def find_mistake() -> str | None:
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(1000, 3, generator=generator) * torch.tensor([0.01, 1.0, 50.0])
        rho = torch.tensor([0.1, 0.25, 0.6])
        start = torch.tensor([0.02, -1.5, 70.0])
        pre = values + start  # as a layer with this bias returns them
        bias, given = start.clone(), pre.clone()
        returned = answer(bias, given, rho.clone())
        if not torch.equal(given, pre):
            return "it changes pre_activations: only the bias may change."
        if torch.equal(bias, start):
            if isinstance(returned, Tensor) and not torch.equal(returned, start):
                return "the bias that was given is still the same: change it in place, with sub_."
            return "the bias is still what it was."
        got = (values + bias > 0).double().mean(0)
        if not bias.isfinite().all():
            return f"the bias must stay finite, got {bias.tolist()}."
        if (got - rho).abs().max() <= 0.002:
            return None
        return _mistaken_shift(pre, start, bias, rho) or (
            f"asked for {_shares(rho)}, the units are now active on {_shares(got)} of the rows."
        )

    print_verdict("Exercise 1", find_mistake)


def _mistaken_shift(pre: Tensor, start: Tensor, bias: Tensor, rho: Tensor) -> str | None:
    def near(other: Tensor) -> bool:
        return torch.allclose(bias, other, rtol=1e-2, atol=1e-3)

    def quantiles(share: Tensor) -> Tensor:
        return torch.stack([unit.quantile(q) for unit, q in zip(pre.T, share, strict=True)])

    wanted = quantiles(1 - rho)
    if near(start - quantiles(rho)):
        return (
            "that is the quantile rho: it leaves a share rho of the rows below 0, and 1 - rho "
            "above."
        )
    if near(start + wanted):
        return "the wrong way round: the quantile has to move to 0, so subtract it."
    if near(-wanted):
        return (
            "the old bias is lost: the pre-activations contain it, so subtract from it, and do "
            "not replace it."
        )
    if near(start - pre.mean(0)):
        return "that subtracts the mean, which takes no notice of rho."
    if any(near(start - pre.quantile(1 - one, dim=0)) for one in rho):
        return "every unit has the same target now: rho holds one a unit."
    if near(start - pre.flatten().quantile(1 - rho)):
        return "that is a quantile over all units together: take it unit by unit, over the rows."
    return None


def _shares(frequency: Tensor) -> str:
    return ", ".join(f"{share:.3g}" for share in frequency.tolist())


def check_mixed_share(answer: Callable[[Tensor], Any]) -> None:
    """Notebook 05, exercise 2: the share of rows with a unit that is on and one that is off."""

    def find_mistake() -> str | None:
        kinds = {"none": [-1.0, -2.0, 0.0], "mixed": [2.0, -1.0, 0.0], "all": [1.0, 2.0, 0.5]}
        # One unit is on for most rows: a count over rows and one over units tell apart.
        pre = torch.tensor([kinds["none"]] + [kinds["mixed"]] * 6 + [kinds["all"]] * 3)  # (10, 3)
        try:
            got = answer(pre.clone())
        except RuntimeError as error:
            if "mean" not in str(error):  # an exercise that is not answered ends here, too
                raise
            return "a comparison gives booleans, which have no mean: turn them into floats first."
        if isinstance(got, Tensor) and got.numel() != 1:
            return f"expected one number, a share of the rows, got shape {tuple(got.shape)}."
        share = float(got)
        mistakes = {
            6.0: "that is a count: divide by the number of rows that are there.",
            0.9: "rows with all units on are counted as well: one unit must be off.",
            0.7: (
                "rows with no unit on are counted as well: one unit must be on, and a unit at 0 is "
                "off."
            ),
            0.4: "those are the rows that are not mixed: take the others.",
            1.0: "that looks at each unit over the rows: look at each row over its units, dim=1.",
            0.5: "that is the mean activation frequency, which says nothing about single rows.",
        }
        if abs(share - 0.6) < 1e-6:
            return None
        for wrong, why in mistakes.items():
            if abs(share - wrong) < 1e-4:
                return why
        return f"6 of these 10 rows have a unit that is on and one that is off; got {share:.4g}."

    print_verdict("Exercise 2", find_mistake)
