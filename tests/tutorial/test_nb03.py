from functools import cache

import pytest
import torch

from saetools import (
    SparseAutoencoder,
    bernoulli_kl,
    chicago_context,
    initialise_for_frequency_,
    soft_frequency,
)
from saetools.tutorial.exercises.nb03 import check_spread_needed, check_straight_through
from saetools.tutorial.harness import trained


def hard(z):
    return (z > 0).float()


def ramp(z, temperature):
    return (z / (6 * temperature) + 0.5).clamp(0, 1)


ANSWERS = {
    "correct": lambda z, t: (hard(z) + (ramp(z, t) - ramp(z, t).detach())).mean(-2),
    "one number per unit": lambda z, t: hard(z).mean(),
    "that is the soft count": lambda z, t: ramp(z, t).mean(-2),
    "the value must be the hard count": lambda z, t: z.mean(-2),
    "there is no gradient": lambda z, t: hard(z).mean(-2),
    "no gradient arrives": lambda z, t: (hard(z) + 0 * z).mean(-2),
    "wrong sign": lambda z, t: (hard(z) + (ramp(z, t).detach() - ramp(z, t))).mean(-2),
    "lacks the factor": lambda z, t: (hard(z) + 6 * t * (ramp(z, t) - ramp(z, t).detach())).mean(
        -2
    ),
    "before any ReLU": lambda z, t: (
        hard(z) + (ramp(z.relu(), t) - ramp(z.relu(), t).detach())
    ).mean(-2),
    "the ramp begins at 0": lambda z, t: (
        hard(z) + ((z / (6 * t)).clamp(0, 1) - (z / (6 * t)).clamp(0, 1).detach())
    ).mean(-2),
    "must be that of the ramp": lambda z, t: (
        hard(z) + ((z / t).sigmoid() - (z / t).sigmoid().detach())
    ).mean(-2),
}


@pytest.mark.parametrize(("says", "answer"), ANSWERS.items(), ids=list(ANSWERS))
def test_straight_through_names_the_mistake(says, answer, capsys):
    check_straight_through(answer)
    assert says in capsys.readouterr().out


@cache
def groups(*, scale=True):
    days = chicago_context()

    def start_at(spread):
        def start(seed):
            model = initialise_for_frequency_(SparseAutoencoder(seed=seed), days.train, rho=0.2)
            with torch.no_grad():
                for part in model.code.parameters() if scale else []:
                    part *= spread
            return model

        return start

    def penalty(output):
        rho_hat = soft_frequency(output.pre_activations, 0.3).clamp(0.001, 0.999)
        return bernoulli_kl(rho_hat, rho=0.2).sum(-1)

    starts = {spread: (start_at(spread), penalty) for spread in (0.1, 0.3, 1.0, 3.0)}
    return trained(starts, days, seeds=range(4), steps=300)


def settled(count, **options):
    return {spread: count(group) for spread, group in groups(**options).items()}


def hard_count(group):
    return group.frequency.mean()


def soft_count(group):
    x = chicago_context().train
    return torch.stack([soft_frequency(model.encode(x), 0.3) for model in group.models]).mean()


FOUND = {
    "correct": lambda: settled(hard_count),
    "not answered yet": lambda: unfinished(),
    "those are the frequencies before training": lambda: settled(lambda g: g.before.mean()),
    "that is the soft count": lambda: settled(soft_count),
    "one mean over all units, got shape (4, 4)": lambda: settled(lambda g: g.frequency),
    "expected a dict with the keys 0.1": lambda: {1.0: 0.2},
    "still have a spread of 1": lambda: settled(hard_count, scale=False),
    "0 everywhere": lambda: dict.fromkeys((0.1, 0.3, 1.0, 3.0), 0.0),
    "1.0: expected 0.2": lambda: settled(hard_count) | {1.0: 0.1},
}


def unfinished():
    raise NotImplementedError


@pytest.mark.slow
@pytest.mark.parametrize(("says", "answer"), FOUND.items(), ids=list(FOUND))
def test_a_wrong_experiment_on_the_spread_is_named(says, answer, capsys):
    check_spread_needed(answer)
    assert says in capsys.readouterr().out
