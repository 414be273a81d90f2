import pytest
import torch

from saetools import (
    activation_frequency,
    frequency_penalty,
    straight_through_frequency,
    straight_through_gate,
    top_k_margins,
)
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


def around(place, value=None):
    """With a slope at the place, and the right value if there is no other."""

    def answer(scores, k, temperature):
        largest = scores.topk(k + 1, dim=-1).values.detach()
        soft = torch.sigmoid((scores - place(largest, k)) / temperature)
        hard = (top_k_margins(scores, k) > 0).float() if value is None else value(scores, k).float()
        return hard + (soft - soft.detach())

    return answer


def half_way(largest, k):
    return largest[:, k - 1 :].mean(-1, keepdim=True)


def sloped(slope):
    def answer(scores, k, temperature):
        soft = slope(scores, top_k_margins(scores, k), temperature)
        return (top_k_margins(scores, k) > 0).float() + (soft - soft.detach())

    return answer


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
    "exactly k ones": lambda s, k, t: 1 - gate(s, k, t),
    "the place moves with the scores": joined,
    "the slope is taken at 0": slope_elsewhere,
    "1: correct": around(half_way, lambda s, k: s.sort(-1).indices.argsort(-1) >= 6 - k),
    "not half-way to the next": around(lambda largest, k: largest[:, k - 1 : k]),
    "not half-way to it": around(lambda largest, k: largest[:, k:]),
    "one too far": lambda s, k, t: gate(s, k + 1, t),
    "exactly 1 there": lambda s, k, t: (
        gate(s, k, t).detach() * torch.sigmoid(top_k_margins(s, k) / t)
    ),
    "subtract soft.detach()": lambda s, k, t: (
        gate(s, k, t) + torch.sigmoid(top_k_margins(s, k) / t)
    ),
    "of each column": lambda s, k, t: gate(s.T, k, t).T,
    "of all scores": lambda s, k, t: gate(s.flatten(), k, t).view_as(s),
    "no place between": around(
        half_way, lambda s, k: s > s.topk(k + 1).values.mean(-1, keepdim=True)
    ),
    "divide by it": sloped(lambda s, m, t: torch.sigmoid(m * t)),
    "the slope is 1 everywhere": sloped(lambda s, m, t: s),
    "a softmax sums to 1": sloped(lambda s, m, t: (m / t).softmax(-1)),
    "could never rise": lambda s, k, t: (
        gate(s, k, t).detach()
        * torch.sigmoid(top_k_margins(s, k) / t)
        / torch.sigmoid(top_k_margins(s, k) / t).detach()
    ),
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
    "2: correct": lambda *a: sum(miss**2 for miss in missing(*a) if miss > 0),
    "correct.": lambda z, r, t: (r - straight_through_frequency(z, t).clamp(max=r)).square().sum(),
    "ask the hard one": lambda z, r, t: (
        (soft(z, t) < r) * (r - straight_through_frequency(z, t)).square()
    ).sum(),
    "on too rarely: sum them": lambda *a: missing(*a).square().sum() / (missing(*a) > 0).sum(),
    "and then sum": lambda *a: missing(*a).sum().square(),
    "as a share of rho": lambda z, r, t: (missing(z, r, t) / r).square().sum(),
    "is a mean over the rows": lambda z, r, t: (
        missing(z, r, t, lambda z, t: straight_through_gate(z, t).mean(1)).square().sum()
    ),
    "that is a number of rows": lambda z, r, t: (
        missing(z, r, t, lambda z, t: straight_through_gate(z, t).sum(0)).square().sum()
    ),
    "that is the KL": lambda z, r, t: frequency_penalty(
        z, rho=r, temperature=t, weight=activation_frequency(z) < r
    ),
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
