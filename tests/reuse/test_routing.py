import pytest
import torch

from saetools import activation_frequency, frequency_penalty, top_k_margins


def logits(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("k", [1, 2, 7])
def test_margins_are_above_0_for_the_k_that_topk_chooses(k):
    z = logits(3, 50, 8)
    chosen = torch.zeros_like(z).scatter_(-1, z.topk(k).indices, 1)
    assert torch.equal((top_k_margins(z, k) > 0).float(), chosen)
    load = activation_frequency(top_k_margins(z, k))
    assert torch.equal(load, activation_frequency(2 * chosen - 1))


def test_an_even_load_pulls_no_expert_and_an_uneven_one_pulls_all_towards_it():
    z = logits(400, 4) + torch.tensor([3.0, 0.0, 0.0, -3.0])
    z.requires_grad_()
    margins = top_k_margins(z, 2)
    slope = torch.autograd.grad(frequency_penalty(margins, rho=0.5), z)[0].sum(0)
    assert slope[0] > 0  # as that of the loss: the busy one is pulled down
    assert slope[3] < 0
    even = torch.eye(4).repeat(100, 1) + torch.eye(4).roll(1, 0).repeat(100, 1)
    even.requires_grad_()
    loss = frequency_penalty(top_k_margins(even, 2), rho=0.5, eps=1e-3)
    [slope] = torch.autograd.grad(loss, even)
    assert slope.abs().max() < 1e-6


def test_each_logit_answers_for_itself():
    z = logits(5, 6).requires_grad_()
    [slope] = torch.autograd.grad(top_k_margins(z, 2)[2, 3], z)
    assert slope[2, 3] == 1
    assert slope.sum() == 1


def test_a_tie_at_the_place_chooses_neither():
    margins = top_k_margins(torch.tensor([[2.0, 1.0, 1.0, 0.0]]), 2)
    assert (margins > 0).tolist() == [[True, False, False, False]]


def test_nan_stays_seen():
    assert top_k_margins(torch.tensor([[1.0, torch.nan, 0.0]]), 1).isnan().any()


@pytest.mark.parametrize(
    ("z", "k", "says"),
    [
        (torch.ones(3, 4), 4, "k must be less than the 4 logits of a row, got 4"),
        (torch.ones(3, 4), 0, "k must be at least 1, got 0"),
        (torch.ones(3, 4).long(), 1, "logits must have a floating dtype"),
    ],
)
def test_bad_input_is_named(z, k, says):
    with pytest.raises((TypeError, ValueError), match=says):
        top_k_margins(z, k)
