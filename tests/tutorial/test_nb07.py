import numpy as np
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


def mean(column):
    return column.double().mean()


def covariance(a, b):
    return (centred(a) * centred(b)).mean()


def spread(column):
    return column.double().std(correction=0)


def by_table(a, b):
    same = (a & b).sum() * (~a & ~b).sum() - (a & ~b).sum() * (~a & b).sum()
    return same / (a.sum() * (~a).sum() * b.sum() * (~b).sum()).double().sqrt()


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
    "1: correct": by_table,
    "correct.": lambda a, b: np.corrcoef(a.numpy(), b.numpy())[0, 1],
    "got shape (2, 2)": lambda a, b: np.corrcoef(a.numpy(), b.numpy()),
    "expected one number, got None": lambda a, b: None,
    "the spreads by n:": lambda a, b: (
        torch.cov(torch.stack([a, b]).double())[0, 1] / (spread(a) * spread(b))
    ),
    "the sum over the rows: take the mean": lambda a, b: (
        (centred(a) * centred(b)).sum() / (centred(a).std() * centred(b).std())
    ),
    "take their roots": lambda a, b: covariance(a, b) / (spread(a) * spread(b)) ** 2,
    "divide by that of the other": lambda a, b: covariance(a, b) / spread(a),
    "the factor's spread alone": lambda a, b: covariance(a, b) / spread(b),
    "the slope of a line": lambda a, b: covariance(a, b) / spread(b) ** 2,
    "subtract each column's mean": lambda a, b: torch.cosine_similarity(a.double(), b.double(), 0),
    "a unit that is always on": lambda a, b: mean(a & b) / mean(b),
    "the share of the unit's rows": lambda a, b: mean(a & b) / mean(a),
    "the overlap over the union": lambda a, b: mean(a & b) / mean(a | b),
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
    "2: correct": lambda z, on: (torch.sign(z[on][:, None] - z[~on]).mean((0, 1)) + 1) / 2,
    "whether the unit fires": lambda z, on: area((z > 0).double(), on),
    "behind a ReLU": lambda z, on: area(z.relu(), on),
    "do not fold it up": lambda z, on: torch.maximum(area(z, on), 1 - area(z, on)),
    "a number of pairs": lambda z, on: area(z, on) * on.sum() * (~on).sum(),
    "the mean of the rows without": lambda z, on: (z[on] > z[~on].mean(0)).double().mean(0),
    "compared with all rows": lambda z, on: (
        (z[on][:, None] > z).double() + 0.5 * (z[on][:, None] == z)
    ).mean((0, 1)),
    "one number for all units": lambda z, on: area(
        z.flatten()[:, None], on[:, None].expand(z.shape).flatten()
    ).expand(3),
    "each row with one other": lambda z, on: (z[on] > z[~on][: on.sum()]).double().mean(0),
    "a difference of means": lambda z, on: z[on].mean(0) - z[~on].mean(0),
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


def named(
    *, seed=0, fires=True, sign=False, share=torch.mean, rhos=(0.02, 0.2, 0.5), power=1, which=None
):
    x = chicago_context().train
    z = (x - x.mean(0)) @ torch.randn(20, 64, generator=torch.Generator().manual_seed(seed))
    found = {}
    for rho in rhos:
        on = z > z.quantile(1 - rho, dim=0) if fires else z
        joint = torch.corrcoef(torch.cat([on, x], dim=1).double().T)[:64, 64:]
        size = joint**power if sign else joint.abs() ** power
        found[rho] = share((which or torch.amax)(size, 1).gt(0.5).double())
    return found


NAMED = {
    "correct": named,
    "not answered yet": lambda: unfinished(),
    "expected a dict with the keys 0.02": lambda: named(rhos=(0.2,)),
    "one share for each rho, got shape (64,)": lambda: named(share=lambda passes: passes),
    "those are counts": lambda: named(share=torch.sum),
    "correlate the *firing*": lambda: named(fires=False),
    "so take abs()": lambda: named(sign=True),
    "or per cent": lambda: {rho: 100 * value for rho, value in named().items()},
    "3: correct": lambda: {rho: float(value) for rho, value in named(seed=11).items()},
    "Is it squared": lambda: named(power=2),
    "a share of the pairs": lambda: named(which=lambda size, _: size),
    "not only if all do": lambda: named(which=torch.amin),
    "the same at every rho": lambda: dict.fromkeys((0.02, 0.2, 0.5), named()[0.5]),
    "rho = 0.5: expected 0.76": lambda: named() | {0.5: 0.95},
}


@pytest.mark.parametrize("seed", range(6))
def test_any_seed_of_the_right_experiment_is_accepted(seed, capsys):
    check_named_by_chance(lambda: named(seed=seed))
    assert "correct" in capsys.readouterr().out


@pytest.mark.parametrize(("says", "answer"), NAMED.items(), ids=list(NAMED))
def test_a_wrong_experiment_on_chance_is_named(says, answer, capsys):
    check_named_by_chance(answer)
    assert says in capsys.readouterr().out
