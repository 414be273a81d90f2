"""The checks of notebook 04 accept a right answer, and name the mistake of each wrong one."""

import math

import pytest
import torch

from saetools import smooth, straight_through_frequency
from saetools.tutorial.exercises.nb04 import check_add_one, check_eps_for_push


def not_answered(*_, **__):
    raise NotImplementedError


def printed(capsys, check, *arguments):
    check(*arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize("check", [check_add_one, check_eps_for_push])
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


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda z, t: (on(z, t).sum(-2) + 1) / (rows(z) + 2), "correct."),
        (
            lambda z, t: smooth(straight_through_frequency(z, t), 1 / (rows(z) + 2)),
            "correct.",
        ),
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


def exact(push, *, rho):
    b = 1 + 2 * rho + push
    return (b - math.sqrt(b * b - 4 * (2 + push) * rho)) / (2 * (2 + push))


def other_root(push, *, rho):
    b = 1 + 2 * rho + push
    return (b + math.sqrt(b * b - 4 * (2 + push) * rho)) / (2 * (2 + push))


def without_squeeze(push, *, rho):
    """Solves (rho - eps) / (eps (1 - eps)) = push."""
    b = 1 + push
    return (b - math.sqrt(b * b - 4 * push * rho)) / (2 * push)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (exact, "correct."),
        (lambda push, *, rho: torch.tensor(exact(push, rho=rho)), "correct."),
        (lambda push, *, rho: str(exact(push, rho=rho)), "expected a number, got str"),
        (lambda push, *, rho: -exact(push, rho=rho), "between 0 and 0.5, got -0.0009"),
        (other_root, "the other root"),
        (lambda push, *, rho: rho / push, "the rule of thumb"),
        (lambda push, *, rho: rho / (1 + push), "Keep the factors"),
        (without_squeeze, "smoothing brings in (1 - 2 eps)"),
        (lambda push, *, rho: 0.001, "push = 200, rho = 0.2: your eps = 0.001 gives"),
    ],
)
def test_eps_for_push(capsys, answer, says):
    assert says in printed(capsys, check_eps_for_push, answer)
