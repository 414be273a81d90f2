import pytest

from saetools.tutorial.exercises.nb06 import check_next_multiplier, check_phi


def unfinished(*_):
    raise NotImplementedError


def centred(column):
    return column.double() - column.double().mean()


def phi(active, on):
    a, b = centred(active), centred(on)
    return (a * b).sum() / (a.norm() * b.norm())


PHI = {
    "correct": phi,
    "not answered yet": unfinished,
    "booleans have no mean": lambda a, b: a.mean(),
    "expected one number": lambda a, b: centred(a) * centred(b),
    "how often they agree": lambda a, b: (a == b).double().mean(),
    "the sign is lost": lambda a, b: phi(a, b).abs(),
    "the wrong way round": lambda a, b: -phi(a, b),
    "the square of it": lambda a, b: phi(a, b) ** 2,
    "that is the covariance": lambda a, b: (centred(a) * centred(b)).mean(),
    "how often both are on": lambda a, b: (a & b).double().mean(),
    "got 0.123": lambda a, b: 0.123,
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


@pytest.mark.parametrize(("says", "answer"), PHI.items(), ids=list(PHI))
def test_each_mistake_about_phi_is_named(says, answer, capsys):
    check_phi(answer)
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("says", "answer"), MULTIPLIER.items(), ids=list(MULTIPLIER))
def test_each_mistake_about_multipliers_is_named(says, answer, capsys):
    check_next_multiplier(answer)
    assert says in capsys.readouterr().out
