import pytest
import torch

from saetools.tutorial.exercises.nb07 import check_auc, check_phi
from saetools.tutorial.measures import auc, phi_ceiling


def unfinished(*_):
    raise NotImplementedError


def centred(column):
    return column.double() - column.double().mean()


def phi(active, on):
    a, b = centred(active), centred(on)
    return (a * b).sum() / (a.norm() * b.norm())


def over_ceiling(active, on):
    return phi(active, on) / phi_ceiling(active.double().mean(), on.double().mean())


def area(z, on):
    return auc(z, on[:, None].double())[:, 0]


def larger(z, on, compare=torch.gt):
    return compare(z[on][:, None], z[~on][None]).double().mean((0, 1))


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
    "phi over its ceiling": over_ceiling,
    "got 0.123": lambda a, b: 0.123,
}
AREA = {
    "correct": area,
    "not answered yet": unfinished,
    "one number per unit, a tensor of shape (3,), got float": lambda *_: 0.5,
    "ties must count as half.": larger,
    "and not in full": lambda z, on: larger(z, on, torch.ge),
    "the wrong way round": lambda z, on: 1 - area(z, on),
    "contains its threshold": lambda z, on: (z[on] > 0).double().mean(0),
    "expected [": lambda z, on: area(z, on) + 7,
}


@pytest.mark.parametrize(("says", "answer"), PHI.items(), ids=list(PHI))
def test_each_mistake_about_phi_is_named(says, answer, capsys):
    check_phi(answer)
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("says", "answer"), AREA.items(), ids=list(AREA))
def test_each_mistake_about_the_area_is_named(says, answer, capsys):
    check_auc(answer)
    assert says in capsys.readouterr().out
