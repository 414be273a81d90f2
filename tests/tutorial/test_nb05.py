"""Each check of notebook 05 accepts right answers, and names the mistake of each wrong one."""

import pytest
import torch

from saetools.tutorial.exercises.nb05 import check_mixed_share, check_shift_bias


def printed(capsys, check, answer):
    check(answer)
    return capsys.readouterr().out


def not_answered(*_):
    raise NotImplementedError


@pytest.mark.parametrize("check", [check_shift_bias, check_mixed_share])
def test_an_exercise_that_is_not_answered_is_no_error(capsys, check):
    assert "not answered yet" in printed(capsys, check, not_answered)


def quantiles(pre, share):
    return torch.stack([unit.quantile(q) for unit, q in zip(pre.T, share, strict=True)])


def by_sorting(bias, pre, rho):
    rows = len(pre)
    on = (rho * rows).round().long()[None]  # (1, L), rows that are to be on
    ordered = pre.sort(dim=0).values
    return bias.sub_((ordered.gather(0, rows - on) + ordered.gather(0, rows - on - 1))[0] / 2)


def by_the_diagonal(bias, pre, rho):
    return bias.sub_(pre.quantile(1 - rho, dim=0).diagonal())


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda b, p, r: b.sub_(quantiles(p, 1 - r)), "correct."),
        (by_the_diagonal, "correct."),
        (by_sorting, "correct."),
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


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda p: ((p > 0).any(1) & (p <= 0).any(1)).float().mean(), "correct."),
        (lambda p: (((p > 0).float().mean(1) % 1) > 0).double().mean().item(), "correct."),
        (lambda p: ((p > 0).any(1) & (p <= 0).any(1)).mean(), "turn them into floats first"),
        (lambda p: ((p > 0).any(1) & (p <= 0).any(1)).sum(), "that is a count"),
        (lambda p: (p > 0).any(1).float().mean(), "rows with all units on are counted as well"),
        (lambda p: (p <= 0).any(1).float().mean(), "rows with no unit on are counted as well"),
        (lambda p: ((p >= 0).any(1) & (p < 0).any(1)).float().mean(), "a unit at 0 is off"),
        (lambda p: ((p > 0).all(1) | (p <= 0).all(1)).float().mean(), "take the others"),
        (lambda p: ((p > 0).any(0) & (p <= 0).any(0)).float().mean(), "over its units, dim=1"),
        (lambda p: (p > 0).float().mean(), "mean activation frequency"),
        (lambda p: ((p > 0).any(1) & (p <= 0).any(1)).float(), "expected one number"),
        (lambda p: 0.123, "6 of these 10 rows"),
    ],
)
def test_mixed_share(capsys, answer, says):
    assert says in printed(capsys, check_mixed_share, answer)
