"""Checks of notebook 05."""

from collections.abc import Callable, Mapping
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


SAMPLES, DAYS = (32, 128, 512, 2048), 4558


@exercise(2)
def check_rows_needed(answer: Callable[[], Any]) -> str | None:
    """Notebook 05, exercise 2: how far units start from rho, by the rows that set them."""
    got = answer()
    if not isinstance(got, Mapping) or set(got) != set(SAMPLES):
        return f"expected a dict with the keys {', '.join(map(str, SAMPLES))}, got {got!r}."
    found = [torch.as_tensor(got[rows]).detach() for rows in SAMPLES]
    if wrong := [tuple(value.shape) for value in found if value.numel() != 1]:
        return f"expected one number for each, over all units, got shape {wrong[0]}."
    # A share of `rows` that were drawn without replacement from DAYS.
    expected = [(0.16 / rows * (1 - rows / DAYS)) ** 0.5 for rows in SAMPLES]
    ratios = [value.item() / right for value, right in zip(found, expected, strict=True)]
    if all(abs(ratio - 1) < 0.22 for ratio in ratios):
        return None
    if max(ratios) < 0.1:
        return "those are next to nothing: measure on all training days, not on the rows drawn."
    if ratios[0] > 2 > ratios[2]:
        return (
            f"{found[0].item():.2f} with 32 rows: the first rows are one winter. Draw rows at "
            "random, others for each seed."
        )
    if all(0.6 < ratio < 0.9 for ratio in ratios):
        return "that is the mean distance: square, take the mean, then the root."
    listed = ", ".join(f"{right:.4f}" for right in expected)
    return f"expected about {listed}, got {', '.join(f'{value.item():.4f}' for value in found)}."
