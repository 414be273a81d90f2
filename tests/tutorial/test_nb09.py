import pytest
import torch

from saetools import straight_through_frequency, straight_through_gate, top_k_margins
from saetools.tutorial.exercises.nb09 import check_at_least, check_top_k_gate


def unfinished(*_):
    raise NotImplementedError


def gate(scores, k, temperature):
    return straight_through_gate(top_k_margins(scores, k), temperature)


def above_the_kth(scores, k, temperature):
    return straight_through_gate(scores - scores.topk(k, -1).values[:, -1:].detach(), temperature)


def joined(scores, k, temperature):
    largest = scores.topk(k + 1, -1).values[:, k - 1 :]
    return straight_through_gate(scores - largest.mean(-1, keepdim=True), temperature)


def slope_elsewhere(scores, k, temperature):
    hard, soft = (top_k_margins(scores, k) > 0).float(), torch.sigmoid(scores / temperature)
    return hard + (soft - soft.detach())


def missing(z, rho, temperature, count=straight_through_frequency):
    return (rho - count(z, temperature)).clamp(min=0)


def soft(z, temperature):
    return torch.sigmoid(z / temperature).mean(0)


GATE = {
    "correct": gate,
    "not answered yet": unfinished,
    "one gate per score": lambda s, k, t: gate(s, k, t).sum(-1),
    "no gradient": lambda s, k, t: gate(s, k, t).detach(),
    "only k - 1 of a row are on": above_the_kth,
    "that is the soft value": lambda s, k, t: torch.sigmoid(top_k_margins(s, k) / t),
    "ask for the k largest": lambda s, k, t: straight_through_gate(s, t),
    "exactly k ones": lambda s, k, t: gate(s, 3, t),
    "the place moves with the scores": joined,
    "the slope is taken at 0": slope_elsewhere,
    "is not the soft one": lambda s, k, t: gate(s, k, 7 * t),
}
AT_LEAST = {
    "correct": lambda *a: missing(*a).square().sum(),
    "not answered yet": unfinished,
    "one number": lambda *a: missing(*a).square(),
    "no gradient: count": lambda *a: missing(*a).square().sum().detach(),
    "must cost nothing": lambda z, r, t: (r - straight_through_frequency(z, t)).square().sum(),
    "on too often": lambda z, r, t: (
        (-(r - straight_through_frequency(z, t))).clamp(min=0).square().sum()
    ),
    "the soft count, which": lambda *a: missing(*a, soft).square().sum(),
    "the mean over the units": lambda *a: missing(*a).square().mean(),
    "square what is missing": lambda *a: missing(*a).sum(),
    "not that of the soft count": lambda z, r, t: missing(z, r, 9 * t).square().sum(),
    "of frequencies [0.0, ": lambda z, r, t: missing(z, r, t).square().sum() + 3,
}


@pytest.mark.parametrize(("says", "answer"), GATE.items(), ids=list(GATE))
def test_each_mistake_about_the_gate_is_named(says, answer, capsys):
    check_top_k_gate(answer)
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("says", "answer"), AT_LEAST.items(), ids=list(AT_LEAST))
def test_each_mistake_about_at_least_is_named(says, answer, capsys):
    check_at_least(answer)
    assert says in capsys.readouterr().out
