"""Checks of notebook 05."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import exercise, known_mistake, no_number, one_number


@exercise(1)
def check_shift_bias(answer: Callable[[Tensor, Tensor, Tensor], Any]) -> str | None:
    """Notebook 05, exercise 1: a bias shifted in place, so that each unit gets its own rho."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, 3, generator=generator) * torch.tensor([0.01, 1.0, 50.0])
    rho, start = torch.tensor([0.1, 0.25, 0.6]), torch.tensor([0.02, -1.5, 70.0])
    pre = values + start  # as a layer with this bias returns them
    bias, given = start.clone(), pre.clone()
    try:
        returned = answer(bias, given, rho.clone())
    except RuntimeError as error:
        if "doesn't match the broadcast shape" not in str(error):
            raise
        return (
            "a table of shape (3, 3) does not fit 3 biases: quantile with several shares answers "
            "for each pair of a share and a unit. Take the diagonal."
        )
    if not torch.equal(given, pre):
        return "it changes pre_activations: only the bias may change."
    if torch.equal(bias, start):
        if isinstance(returned, Tensor) and not torch.equal(returned, start):
            return "the bias that was given is still the same: change it in place, with sub_."
        return "the bias is still what it was: sub_ changes it, bias = ... makes a new tensor."
    if not bias.isfinite().all():
        return f"the bias must stay finite, got {bias.tolist()}."
    frequency = (values + bias > 0).double().mean(0)
    if (frequency - rho).abs().max() <= 0.002:
        return None
    pairs = pre.quantile(1 - rho, dim=0)  # (shares, units)
    wanted, other = pairs.diagonal(), pre.quantile(rho, dim=0).diagonal()
    mean, pooled = pre.mean(0), pre.flatten().quantile(1 - rho)
    normal = mean + pre.std(0) * torch.special.ndtri(1 - rho)
    known: dict[str, Tensor | float] = {
        "that is the quantile rho, with a share rho of the rows below, not above.": start - other,
        "the wrong way round: the quantile has to move to 0, so subtract it.": start + wanted,
        "the old bias is lost: the pre-activations contain it, so subtract from it.": -wanted,
        "that subtracts the mean, which takes no notice of rho.": start - mean,
        "that is a quantile over all units together: take it unit by unit.": start - pooled,
        "the mean over the shares mixes them: take the diagonal.": start - pairs.mean(0),
        "the mean over the units mixes them: take the diagonal.": start - pairs.mean(1),
        "mean and spread give the quantile of a normal unit: take the rows' own.": start - normal,
    }
    for one in rho:
        same = start - pre.quantile(1 - one, dim=0)
        known[f"every unit has the same target now, {one:g}: rho holds one per unit."] = same
    asked, got = (", ".join(f"{x:.3g}" for x in share.tolist()) for share in (rho, frequency))
    return known_mistake(bias, known, rtol=1e-2, atol=1e-3) or (
        f"asked for {asked}, the units are now active on {got} of the rows."
    )


SAMPLES, DAYS = (32, 128, 512, 2048), 4558


@exercise(2)
def check_rows_needed(answer: Callable[[], Any]) -> str | None:
    """Notebook 05, exercise 2: how far units start from rho, by the rows that set them."""
    got = answer()
    if not isinstance(got, Mapping) or set(got) != set(SAMPLES):
        return f"expected a dict with the keys {', '.join(map(str, SAMPLES))}, got {got!r}."
    found = []
    for rows in SAMPLES:
        if (number := one_number(got[rows])) is None:
            return f"expected one number for each, over all units, got {no_number(got[rows])}."
        found.append(number)
    # A share of `rows` that were drawn without replacement from DAYS.
    expected = [(0.16 / rows * (1 - rows / DAYS)) ** 0.5 for rows in SAMPLES]
    ratios = [value / right for value, right in zip(found, expected, strict=True)]
    if all(abs(ratio - 1) < 0.22 for ratio in ratios):
        return None
    if min(found) < 0:
        return "a distance is not below 0: square the misses before the mean."
    if all(0.6 < ratio / right < 1.5 for ratio, right in zip(ratios, expected, strict=True)):
        return "that is the mean square: take its root."
    if all(abs(ratio / 128**0.5 - 1) < 0.22 for ratio in ratios):
        return "that is the root of the sum: divide the sum by the 128 units first."
    if ratios[3] > 1.22 and all(abs(ratio - 1) < 0.22 for ratio in ratios[:3]):
        return "with 2,048 rows too far off: draw each day at most once, as randperm does."
    if max(ratios) < 0.1:
        return "those are next to nothing: measure on all training days, not on the rows drawn."
    if ratios[0] > 2 > ratios[2]:
        return (
            f"{found[0]:.2f} with 32 rows: the first rows are one winter. Draw rows at "
            "random, others for each seed."
        )
    if all(0.6 < ratio < 0.9 for ratio in ratios):
        return "that is the mean distance: square, take the mean, then the root."
    listed = ", ".join(f"{right:.4f}" for right in expected)
    return f"expected about {listed}, got {', '.join(f'{value:.4f}' for value in found)}."
