import pytest
import torch

from saetools import chicago_context
from saetools.tutorial.exercises.nb07 import check_auc, check_named_by_chance, check_phi
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
    "take one of the two throughout": lambda a, b: (
        (centred(a) * centred(b)).mean() / (centred(a).std() * centred(b).std())
    ),
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


def named(*, seed=0, fires=True, sign=False, share=torch.mean, rhos=(0.02, 0.2, 0.5)):
    x = chicago_context().train
    z = (x - x.mean(0)) @ torch.randn(20, 64, generator=torch.Generator().manual_seed(seed))
    found = {}
    for rho in rhos:
        on = z > z.quantile(1 - rho, dim=0) if fires else z
        joint = torch.corrcoef(torch.cat([on, x], dim=1).double().T)[:64, 64:]
        found[rho] = share(((joint if sign else joint.abs()).amax(1) > 0.5).double())
    return found


NAMED = {
    "correct": named,
    "not answered yet": lambda: unfinished(),
    "expected a dict with the keys 0.02": lambda: named(rhos=(0.2,)),
    "one share for each rho, got shape (64,)": lambda: named(share=lambda passes: passes),
    "those are counts": lambda: named(share=torch.sum),
    "correlate the *firing*": lambda: named(fires=False),
    "so take abs()": lambda: named(sign=True),
    "rho = 0.5: expected 0.76": lambda: named() | {0.5: 0.1},
}


@pytest.mark.parametrize("seed", range(6))
def test_any_seed_of_the_right_experiment_is_accepted(seed, capsys):
    check_named_by_chance(lambda: named(seed=seed))
    assert "correct" in capsys.readouterr().out


@pytest.mark.parametrize(("says", "answer"), NAMED.items(), ids=list(NAMED))
def test_a_wrong_experiment_on_chance_is_named(says, answer, capsys):
    check_named_by_chance(answer)
    assert says in capsys.readouterr().out
