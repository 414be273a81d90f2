"""Each check of notebook 05 accepts right answers, and names the mistake of each wrong one."""

import pytest
import torch

from saetools import (
    SparseAutoencoder,
    activation_frequency,
    chicago_context,
    initialise_for_frequency_,
)
from saetools.tutorial.exercises.nb05 import check_rows_needed, check_shift_bias


def printed(capsys, check, answer):
    check(answer)
    return capsys.readouterr().out


def not_answered(*_):
    raise NotImplementedError


@pytest.mark.parametrize("check", [check_shift_bias, check_rows_needed])
def test_an_exercise_that_is_not_answered_is_no_error(capsys, check):
    assert "not answered yet" in printed(capsys, check, not_answered)


def quantiles(pre, share):
    return torch.stack([unit.quantile(q) for unit, q in zip(pre.T, share, strict=True)])


def by_sorting(bias, pre, rho):
    rows = len(pre)
    on = (rho * rows).round().long()[None]  # (1, L), rows that are to be on
    ordered = pre.sort(dim=0).values
    return bias.sub_((ordered.gather(0, rows - on) + ordered.gather(0, rows - on - 1))[0] / 2)


def by_rank(bias, pre, rho):
    """The threshold is the largest value that is to be off."""
    ordered = pre.sort(dim=0, descending=True).values
    return bias.sub_(ordered.gather(0, (rho * len(pre)).round().long()[None])[0])


def through_data(bias, pre, rho):
    for unit, share in enumerate(rho):
        bias.data[unit] -= pre[:, unit].quantile(1 - share)


def normal(pre, rho):
    return pre.mean(0) + pre.std(0) * torch.special.ndtri(1 - rho)


def by_the_diagonal(bias, pre, rho):
    return bias.sub_(pre.quantile(1 - rho, dim=0).diagonal())


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda b, p, r: b.sub_(quantiles(p, 1 - r)), "correct."),
        (by_the_diagonal, "correct."),
        (by_sorting, "correct."),
        (by_rank, "correct."),
        (through_data, "correct."),
        (lambda b, p, r: b.sub_(p.quantile(1 - r, dim=0)), "Take the diagonal"),
        (lambda b, p, r: b.sub_(p.quantile(1 - r, dim=0).mean(0)), "over the shares mixes them"),
        (lambda b, p, r: b.sub_(p.quantile(1 - r, dim=0).mean(1)), "over the units mixes them"),
        (lambda b, p, r: b.sub_(normal(p, r)), "the quantile of a normal unit"),
        (lambda b, p, r: b - quantiles(p, 1 - r), "change it in place, with sub_"),
        (lambda b, p, r: None, "the bias is still what it was"),
        (lambda b, p, r: b.sub_(quantiles(p, r)), "that is the quantile rho"),
        (lambda b, p, r: b.add_(quantiles(p, 1 - r)), "the wrong way round"),
        (lambda b, p, r: b.copy_(-quantiles(p, 1 - r)), "the old bias is lost"),
        (lambda b, p, r: b.sub_(p.mean(0)), "takes no notice of rho"),
        (lambda b, p, r: b.sub_(p.quantile(1 - r[0], dim=0)), "every unit has the same target"),
        (lambda b, p, r: b.sub_(p.quantile(1 - r[2].item(), dim=0)), "the same target"),
        (lambda b, p, r: b.sub_(p.flatten().quantile(1 - r)), "over all units together"),
        (lambda b, p, r: b.mul_(torch.nan), "must stay finite"),
        (lambda b, p, r: b.sub_(1.0), "asked for 0.1, 0.25, 0.6, the units are now active on"),
        (lambda b, p, r: p.sub_(quantiles(p, 1 - r)), "only the bias may change"),
    ],
)
def test_shift_bias(capsys, answer, says):
    assert says in printed(capsys, check_shift_bias, answer)


DAYS = chicago_context().train


def drawn(rows, seed):
    order = torch.randperm(len(DAYS), generator=torch.Generator().manual_seed(seed))
    return DAYS[order[:rows]]


def drawn_again(rows, seed):
    return DAYS[torch.randint(len(DAYS), (rows,), generator=torch.Generator().manual_seed(seed))]


def root_mean_square(miss):
    return miss.square().mean().sqrt()


def experiment(pick=drawn, distance=root_mean_square, seeds=32):
    found = {}
    for rows in (32, 128, 512, 2048):
        samples = [pick(rows, seed) for seed in range(seeds)]
        models = [
            initialise_for_frequency_(SparseAutoencoder(seed=seed), x, rho=0.2)
            for seed, x in enumerate(samples)
        ]
        measured = [activation_frequency(model.encode(DAYS)) for model in models]
        found[rows] = distance(torch.stack(measured) - 0.2)
    return found


FOUND = {
    "correct": experiment,
    "not answered yet": lambda: not_answered(),
    "one winter": lambda: experiment(lambda rows, seed: DAYS[:rows]),
    "not on the rows drawn": lambda: experiment(lambda rows, seed: DAYS),
    "the mean square: take its root": lambda: experiment(
        distance=lambda miss: miss.square().mean()
    ),
    "not below 0": lambda: dict.fromkeys((32, 128, 512, 2048), -0.01),
    "divide the sum by the 128 units": lambda: experiment(distance=torch.Tensor.norm),
    "draw each day at most once": lambda: experiment(drawn_again),
    "over all units, got NoneType": lambda: experiment(distance=lambda miss: None),
    "that is the mean distance": lambda: experiment(distance=lambda miss: miss.abs().mean()),
    "over all units, got shape (4,)": lambda: experiment(distance=lambda miss: miss.abs().mean(0)),
    "expected a dict with the keys 32": lambda: {32: 0.07},
    "expected about 0.0705": lambda: experiment(distance=lambda miss: miss.abs().max()),
}


@pytest.mark.slow
@pytest.mark.parametrize(("says", "answer"), FOUND.items(), ids=list(FOUND))
def test_a_wrong_experiment_on_rows_is_named(says, answer, capsys):
    assert says in printed(capsys, check_rows_needed, answer)
