"""The checks of notebook 04 accept a right answer, and name the mistake of each wrong one."""

from functools import cache

import pytest
import torch

from saetools import (
    SparseAutoencoder,
    bernoulli_kl,
    chicago_context,
    initialise_for_frequency_,
    smooth,
    straight_through_frequency,
)
from saetools.tutorial.exercises.nb04 import check_add_one, check_rare_units
from saetools.tutorial.harness import trained


def not_answered(*_, **__):
    raise NotImplementedError


def printed(capsys, check, *arguments):
    check(*arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize("check", [check_add_one, check_rare_units])
def test_an_exercise_that_is_not_answered_is_no_error(capsys, check):
    assert "not answered yet" in printed(capsys, check, not_answered)


def on(pre, temperature, scale=1.0):
    soft = torch.sigmoid(pre / temperature)
    return (pre > 0).double() + scale * (soft - soft.detach())


def rows(pre):
    return pre.shape[-2]


def straight_through_clamped(pre, temperature):
    """Right in value, but with the gradient of a clamp: none for the units at the ends."""
    right = (on(pre, temperature).sum(-2) + 1) / (rows(pre) + 2)
    ends = right.detach()
    return torch.where((ends < 0.12) | (ends > 0.88), ends, right)


def by_two_more_rows(pre, temperature):
    more = torch.ones_like(pre[..., :1, :])
    return torch.cat([on(pre, temperature), more, 0 * more], dim=-2).mean(-2)


def soft_in_front(pre, temperature):
    soft, hard = torch.sigmoid(pre / temperature), (pre > 0).double()
    return ((soft + (hard - soft).detach()).sum(-2) + 1) / (rows(pre) + 2)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda z, t: (on(z, t).sum(-2) + 1) / (rows(z) + 2), "correct."),
        (
            lambda z, t: smooth(straight_through_frequency(z, t), 1 / (rows(z) + 2)),
            "correct.",
        ),
        (by_two_more_rows, "correct."),
        (soft_in_front, "correct."),
        (lambda z, t: [0.1, 0.4, 0.9], "a tensor of shape (3,)"),
        (lambda z, t: (on(z, t).sum(-1) + 1) / (rows(z) + 2), "a tensor of shape (3,)"),
        (lambda z, t: on(z, t).mean(-2), "add the two rows"),
        (lambda z, t: (on(z, t).sum(-2) + 1) / rows(z), "it exceeds 1"),
        (lambda z, t: (on(z, t).sum(-2) + 1) / (rows(z) + 1), "always on still gets 1"),
        (lambda z, t: (on(z, t).sum(-2) + 1) / 130, "7 rows, not 128"),
        (
            lambda z, t: (torch.sigmoid(z / t).sum(-2) + 1) / (rows(z) + 2),
            "that is the soft count",
        ),
        (lambda z, t: on(z, t).sum(-2), "expected [0.11"),
        (lambda z, t: smooth(straight_through_frequency(z, t)), "with eps = 0.001"),
        (lambda z, t: smooth(straight_through_frequency(z, t), 1 / rows(z)), "not 1 / rows"),
        (lambda z, t: (on(z, t).sum(-2) + 1) / (z.shape[-1] + 2), "3 is the number of units"),
        (lambda z, t: (on(z, t).sum(-2) + 1) / (len(z) + 2), "the rows are shape[-2]"),
        (lambda z, t: ((z >= 0).sum(-2) + 1) / (rows(z) + 2), "not at 0 itself"),
        (lambda z, t: (on(z, t).sum(-2) + 1) / (rows(z) + 2.5), "expected [0.11"),
        (lambda z, t: ((z > 0).sum(-2) + 1) / (rows(z) + 2), "has no grad_fn"),
        (
            lambda z, t: ((z > 0).sum(-2) + 1) / (rows(z) + 2) + 0 * z.sum(-2),
            "no gradient arrives",
        ),
        (lambda z, t: (on(z, t, 2.0).sum(-2) + 1) / (rows(z) + 2), "is 2 times"),
        (straight_through_clamped, "the one that is always on get no gradient"),
        (lambda z, t: (on(z, 1.0).sum(-2) + 1) / (rows(z) + 2), "is not that of the sigmoid"),
        (lambda z, t: (on(z, t).sum(0) + 1) / (len(z) + 2), "must give (N, L)"),
    ],
)
def test_add_one(capsys, answer, says):
    assert says in printed(capsys, check_add_one, answer)


@cache
def groups(*, rows=32, rho=0.05):
    days = chicago_context()

    def start(seed):
        return initialise_for_frequency_(SparseAutoencoder(seed=seed), days.train, rho=rho)

    def penalty(eps):
        def kept(output):
            rho_hat = straight_through_frequency(output.pre_activations, 0.3)
            return bernoulli_kl(smooth(rho_hat, eps), rho=rho).sum(-1)

        return kept

    starts = {eps: (start, penalty(eps)) for eps in (1e-3, 1 / 130, 1 / 34)}
    return trained(starts, days, seeds=range(8), batch_size=rows)


def settled(share, **options):
    return {eps: share(group) for eps, group in groups(**options).items()}


def over_rho(group):
    return group.frequency.mean() / 0.05


@pytest.mark.slow
def test_with_few_rows_and_add_one_many_units_fall_silent_and_others_do_not():
    silent = {eps: group.frequency < 0.001 for eps, group in groups().items()}
    assert 8 <= silent[1 / 34].sum() <= 24
    assert silent[1e-3].sum() <= 2
    assert 0.4 < groups()[1 / 34].frequency[~silent[1 / 34]].mean() / 0.05 < 1


# What training gives on the soft count, and from the default start.
SOFT, DEFAULT = (0.225, 0.12, 0.044), (5.853, 2.525, 0.579)
FOUND = {
    "correct": lambda: settled(over_rho),
    "not answered yet": not_answered,
    "divide them by rho": lambda: settled(lambda group: group.frequency.mean()),
    "before training": lambda: settled(lambda group: group.before.mean() / 0.05),
    "Pass batch_size=32": lambda: settled(over_rho, rows=128),
    "one mean over all units": lambda: settled(lambda group: group.frequency),
    "one mean over all units, got list": lambda: settled(lambda g: g.frequency.tolist()),
    "not on the soft one": lambda: dict(zip(groups(), SOFT, strict=True)),
    "a clamp leaves silent units silent": lambda: dict.fromkeys(groups(), 0.123),
    "Start from initialise_for_frequency_": lambda: dict(zip(groups(), DEFAULT, strict=True)),
    "expected a dict with three eps": lambda: {1e-3: 2.9},
    "eps = 0.0010 is missing: the keys are a": lambda: {"a": 1.0, "b": 1.0, "c": 1.0},
    "eps = 0.0294 is missing": lambda: dict.fromkeys((1e-3, 1 / 130, 1 / 32), 1.0),
    "eps = 0.0077: expected": lambda: dict(zip((1e-3, 1 / 130, 1 / 34), (2.9, 1, 1), strict=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("says", "answer"), FOUND.items(), ids=list(FOUND))
def test_a_wrong_experiment_on_rare_units_is_named(says, answer, capsys):
    assert says in printed(capsys, check_rare_units, answer)
