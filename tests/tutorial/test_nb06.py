import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from saetools.tutorial.exercises.nb06 import check_interval, check_next_multiplier
from saetools.tutorial.measures import wilson


def unfinished(*_):
    raise NotImplementedError


def plain(count, of):
    share = count / of
    width = 1.96 * (share * (1 - share) / of) ** 0.5
    return share - width, share + width


def ends(count, of, *, shift=None, within=None, z=1.96, scale=None):
    """Wilson's interval, with what is given in place of one of its parts."""
    share = count / of
    middle = share + (z**2 / (2 * of) if shift is None else shift)
    within = z**2 / (4 * of**2) if within is None else within
    half = (z if scale is None else scale) * (share * (1 - share) / of + within) ** 0.5
    return (middle - half) / (1 + z**2 / of), (middle + half) / (1 + z**2 / of)


def middle_and_half(count, of):
    low, high = ends(count, of)
    return (low + high) / 2, (high - low) / 2


def as_roots(count, of):
    """The ends are the shares that lie z of their own standard errors from the one counted."""
    of_one = 1 + 1.96**2 / of
    return np.roots([of_one, -(2 * count / of + 1.96**2 / of), (count / of) ** 2])[::-1]


INTERVAL = {
    "correct": wilson,
    "not answered yet": unfinished,
    "expected two numbers": lambda count, of: count / of,
    "expected two numbers, (low, high), got (None": lambda count, of: (None, 1),
    "expected two numbers, (low, high), got tensor": lambda count, of: torch.ones(3),
    "give the ends": middle_and_half,
    "write z ** 2 / (2 * n)": lambda count, of: ends(count, of, shift=1.96**2 / 2 * of),
    "write z ** 2 / (4 * n ** 2)": lambda count, of: ends(count, of, within=1.96**2 / 4 * of**2),
    "the root lacks its z ** 2": lambda count, of: ends(count, of, within=0.0),
    "the root lacks its factor z": lambda count, of: ends(count, of, scale=1.0),
    "1.96 standard errors": plain,
    "the wrong way round": lambda count, of: wilson(count, of)[::-1],
    "the scale is missing": lambda count, of: tuple(
        e * (1 + 1.96**2 / of) for e in wilson(count, of)
    ),
    "15 of 16: expected (0.717, 0.989)": lambda count, of: (0.1, 0.2),
}
RIGHT_INTERVAL = {
    "a list": lambda count, of: list(ends(count, of)),
    "a tensor": lambda count, of: torch.tensor(ends(count, of)),
    "the roots of its equation": as_roots,
    "scipy": lambda count, of: binomtest(count, of).proportion_ci(method="wilson"),
}
RIGHT_MULTIPLIER = {
    "in place": lambda old, rho_hat, rho, rate: old.add_(rho_hat - rho, alpha=rate),
    "unit by unit": lambda old, rho_hat, rho, rate: torch.stack(
        [one - rate * (rho - share) for one, share in zip(old, rho_hat, strict=True)]
    ),
}
MULTIPLIER = {
    "correct": lambda old, rho_hat, rho, rate: old + rate * (rho_hat - rho),
    "not answered yet": unfinished,
    "one multiplier per unit, a tensor of shape (3,), got float": lambda *_: 0.0,
    "not a smaller": lambda old, rho_hat, rho, rate: old - rate * (rho_hat - rho),
    "the rate is missing": lambda old, rho_hat, rho, rate: old + rho_hat - rho,
    "the old multiplier is lost": lambda old, rho_hat, rho, rate: rate * (rho_hat - rho),
    "it grows for ever": lambda old, rho_hat, rho, rate: old + rate * rho_hat,
    "keep it": lambda old, rho_hat, rho, rate: (old + rate * (rho_hat - rho)).clamp(min=0),
    "take the miss itself": lambda old, rho_hat, rho, rate: old + rate * (rho_hat - rho).sign(),
    "no mean over the units": lambda old, rho_hat, rho, rate: old + rate * (rho_hat - rho).mean(),
    "do not multiply": lambda old, rho_hat, rho, rate: old * (1 + rate * (rho_hat - rho)),
    "not divided by rho": lambda old, rho_hat, rho, rate: old + rate * (rho_hat / rho - 1),
    "no square": lambda old, rho_hat, rho, rate: old + rate * (rho_hat - rho) ** 2,
    "expected [": lambda old, rho_hat, rho, rate: old + 7,
}


@pytest.mark.parametrize(("says", "answer"), INTERVAL.items(), ids=list(INTERVAL))
def test_each_mistake_about_the_interval_is_named(says, answer, capsys):
    check_interval(answer)
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("says", "answer"), MULTIPLIER.items(), ids=list(MULTIPLIER))
def test_each_mistake_about_multipliers_is_named(says, answer, capsys):
    check_next_multiplier(answer)
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("answer", RIGHT_INTERVAL.values(), ids=list(RIGHT_INTERVAL))
def test_an_interval_found_otherwise_is_right(answer, capsys):
    check_interval(answer)
    assert "correct" in capsys.readouterr().out


@pytest.mark.parametrize("answer", RIGHT_MULTIPLIER.values(), ids=list(RIGHT_MULTIPLIER))
def test_a_multiplier_found_otherwise_is_right(answer, capsys):
    check_next_multiplier(answer)
    assert "correct" in capsys.readouterr().out
