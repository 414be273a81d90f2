"""Checks of notebook 07."""

from collections.abc import Callable, Mapping
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
from saetools.tutorial.matching import phi_coefficients
from saetools.tutorial.measures import auc, phi_ceiling


@exercise(1)
def check_phi(answer: Callable[[Tensor, Tensor], Any]) -> str | None:
    """Notebook 07, exercise 1: the phi coefficient of two columns of booleans."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.rand(400, generator=generator) < 0.1
    other = torch.rand(400, generator=generator) < 0.3
    half = torch.arange(400) % 2 == 0
    cases = {
        "a unit that fires with it half of the time, and else now and then": (
            factor & half | other & ~factor,
            factor,
        ),
        "a unit that fires with it, and else now and then": (factor | other, factor),
        "a unit that fires exactly with it": (factor, factor),
        "a unit that fires exactly without it": (~factor, factor),
        "a unit that takes no notice of it": (other, factor),
    }
    for what, (active, on) in cases.items():
        got = answer(active.clone(), on.clone())
        if one_number(got) is None:
            return f"expected one number, got {no_number(got)}."
        signs = [2.0 * column[:, None] - 1 for column in (active, on)]  # active where > 0
        expected = phi_coefficients(*signs).item()
        if abs(float(got) - expected) > 1e-4:
            mistake = _mistaken_phi(float(got), active.double(), on.double(), expected)
            return f"{what}: {mistake}"
    return None


def _mistaken_phi(got: float, active: Tensor, on: Tensor, expected: float) -> str:
    both = (active * on).mean()
    shares = active.mean(), on.mean()
    covariance = both - shares[0] * shares[1]
    variances = [share * (1 - share) for share in shares]
    n = len(active)
    known: dict[str, Tensor | float] = {
        "that is how often they agree, which is high for any two columns that are mostly off.": (
            (active == on).double().mean()
        ),
        "the sign is lost: a unit that fires without the factor is at -1.": abs(expected),
        "the sign is the wrong way round.": -expected,
        "that is the square of it.": expected**2,
        "the mean divides by n, torch's std by n - 1: take one of the two throughout.": (
            expected * (1 - 1 / n)
        ),
        "the covariance divides by n - 1, the spreads by n: take one of the two throughout.": (
            expected * n / (n - 1)
        ),
        "the sum over the rows: take the mean, as the spreads do.": expected * (n - 1),
        "a sum over the rows where a mean is asked for.": expected * n,
        "that is the covariance: divide by both spreads.": covariance,
        "divided by both variances: take their roots.": covariance / (variances[0] * variances[1]),
        "divided by the spread of one column: divide by that of the other, too.": (
            covariance / variances[0] ** 0.5
        ),
        "divided by the factor's spread alone: divide by the unit's, too.": (
            covariance / variances[1] ** 0.5
        ),
        "that is the slope of a line: divide by both spreads, not by one variance.": (
            covariance / variances[1]
        ),
        "that is a cosine: subtract each column's mean first.": (
            both / (shares[0] * shares[1]) ** 0.5
        ),
        "that is the share of the factor's rows on which the unit is active, which is high for a "
        "unit that is always on.": both / shares[1],
        "that is the share of the unit's rows with the factor: subtract what chance gives.": (
            both / shares[0]
        ),
        "that is the overlap over the union: rows on which both are off count as well.": (
            both / (shares[0] + shares[1] - both)
        ),
        "that is how often both are on: subtract what chance gives.": both,
        "that is phi over its ceiling, which the notebook needs next: here phi itself is asked "
        "for.": expected / phi_ceiling(*shares).item(),
    }
    return known_mistake(got, known, atol=1e-4) or f"expected {expected:.3f}, got {got:.3f}."


@exercise(2)
def check_auc(answer: Callable[[Tensor, Tensor], Any]) -> str | None:
    """Notebook 07, exercise 2: the area under the curve of each unit for one factor."""
    generator = torch.Generator().manual_seed(0)
    on = torch.rand(60, generator=generator) < 0.3
    noise = torch.randn(60, 3, generator=generator)
    z = torch.stack([on + 0.8 * noise[:, 0], noise[:, 1], -2.0 * on + noise[:, 2]], dim=1)
    z = (2 * z).round() / 2  # with ties
    right = auc(z, on[:, None].double())[:, 0]
    got = answer(z.clone(), on.clone())
    if mistake := wrong_shape(got, (3,), "one number per unit"):
        return mistake
    if is_close(got, right, atol=1e-4):
        return None
    with_, without = z[on][:, None], z[~on][None]
    known = {
        "ties must count as half.": (with_ > without).double().mean((0, 1)),
        "ties must count as half, and not in full.": (with_ >= without).double().mean((0, 1)),
        "the wrong way round: count where the row with the factor is larger.": 1 - right,
        "that asks whether a unit is active, and so contains its threshold: compare the values.": (
            (with_ > 0).double().mean((0, 1))
        ),
        "that asks of each row whether the unit fires, and so contains its threshold: compare the "
        "values.": auc((z > 0).double(), on[:, None].double())[:, 0],
        "behind a ReLU all rows that are off are ties: compare the pre-activations.": (
            auc(z.relu(), on[:, None].double())[:, 0]
        ),
        "a unit that goes against the factor has less than 1/2: do not fold it up.": (
            torch.maximum(right, 1 - right)
        ),
        "that is a number of pairs: divide by how many there are.": (
            right * with_.shape[0] * without.shape[1]
        ),
        "compared with the mean of the rows without it: compare with each of them.": (
            (with_[:, 0] > without[0].mean(0)).double().mean(0)
        ),
        "compared with all rows: compare with those without the factor.": _against(z[on], z),
        "one number for all units: compare each unit with itself.": (
            _against(z[on].flatten()[:, None], z[~on].flatten()[:, None]).expand(3)
        ),
        "each row with one other: compare every row with the factor to every row without.": (
            (z[on] > z[~on][: on.sum()]).double().mean(0)
        ),
        "that is a difference of means: count in how many pairs the first is larger.": (
            z[on].mean(0) - z[~on].mean(0)
        ),
    }
    return known_mistake(got, known, atol=1e-4) or (
        f"expected {_short(right)}, got {_short(got)}: compare one pair of rows by hand."
    )


def _against(some: Tensor, others: Tensor) -> Tensor:
    pairs = some[:, None] - others[None]  # (P, N, L)
    return (pairs.sign().double().mean((0, 1)) + 1) / 2


def _short(values: Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]


# rho -> share of random directions that go with one feature, and the tolerance
BY_CHANCE = {0.02: (0.06, 0.1), 0.2: (0.57, 0.14), 0.5: (0.76, 0.14)}


@exercise(3)
def check_named_by_chance(answer: Callable[[], Any]) -> str | None:
    """Notebook 07, exercise 3: how many random directions pass as meaningful, by frequency."""
    got = answer()
    if not isinstance(got, Mapping) or set(got) != set(BY_CHANCE):
        return f"expected a dict with the keys {', '.join(map(str, BY_CHANCE))}, got {got!r}."
    values = [torch.as_tensor(got[rho]).detach() for rho in BY_CHANCE]
    if wrong := [tuple(value.shape) for value in values if value.numel() != 1]:
        return f"expected one share for each rho, got shape {wrong[0]}."
    rare, _, half = found = [value.item() for value in values]
    if half > 1:
        return "those are counts, or per cent: give shares, between 0 and 1."
    if half <= 0.02:
        return "a unit passes if *one* of the twenty features goes with it, and not only if all do."
    if half < 0.25:
        return (
            "too few: a unit passes if its *largest* correlation is over 0.5. Is it squared, or a "
            "share of the pairs of unit and feature?"
        )
    if rare > 0.8:
        return (
            "nearly all pass at every rho: correlate the *firing*, on or off, with the features, "
            "and not the values before the threshold."
        )
    if len(set(found)) == 1:
        return "the same at every rho: each rho has its own threshold, and so its own firing."
    if 0.3 < half < 0.6 and rare < 0.2:
        return "too few: a unit that goes *against* a feature passes as well, so take abs()."
    for (rho, (expected, tolerance)), value in zip(BY_CHANCE.items(), found, strict=True):
        if abs(value - expected) > tolerance:
            asked = f"{expected} give or take {tolerance}"
            return f"rho = {rho}: expected {asked}, got {value:.2f}."
    return None
