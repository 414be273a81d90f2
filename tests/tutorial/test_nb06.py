import pytest

from saetools.tutorial.exercises.nb06 import check_interval, check_next_multiplier
from saetools.tutorial.measures import wilson


def unfinished(*_):
    raise NotImplementedError


def plain(count, of):
    share = count / of
    width = 1.96 * (share * (1 - share) / of) ** 0.5
    return share - width, share + width


INTERVAL = {
    "correct": wilson,
    "not answered yet": unfinished,
    "expected two numbers": lambda count, of: count / of,
    "1.96 standard errors": plain,
    "the wrong way round": lambda count, of: wilson(count, of)[::-1],
    "the scale is missing": lambda count, of: tuple(
        e * (1 + 1.96**2 / of) for e in wilson(count, of)
    ),
    "15 of 16: expected (0.717, 0.989)": lambda count, of: (0.1, 0.2),
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
