"""Which loss term reaches which parameter."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from saetools import SparseAutoencoder, posted_penalty
from saetools.gradients import gradient_reach, trace_gradients


def reach_terms():
    model = SparseAutoencoder(seed=0)
    output = model(torch.rand(32, 20))
    first = model.encoder[0].weight
    terms = {
        "error": output.reconstruction.square().mean(),
        "posted": posted_penalty(output.latents, batch_size=640),
        "code": output.pre_activations.square().mean(),
        "flat": torch.sign(output.pre_activations).sum(),
        "root": (first * 0).sum().sqrt(),
    }
    return model, terms


def test_reach_tells_the_four_cases_apart():
    model, terms = reach_terms()
    reach = gradient_reach(terms, model)
    assert set(reach["posted"].values()) == {"no path"}
    assert all(isinstance(value, float) and value > 0 for value in reach["error"].values())
    assert reach["code"]["decoder.0.weight"] == "no path"
    assert reach["flat"]["encoder.2.bias"] == "zero"
    assert reach["root"]["encoder.0.weight"] == "not finite"
    (gradient,) = torch.autograd.grad(terms["error"], model.encoder[0].weight)
    assert reach["error"]["encoder.0.weight"] == pytest.approx(gradient.norm().item())


def test_reach_leaves_grad_the_random_state_and_the_terms_alone():
    model, terms = reach_terms()
    state = torch.get_rng_state()
    gradient_reach(terms, model)
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    terms["error"].backward()


def test_reach_prints_and_renders():
    model, terms = reach_terms()
    reach = gradient_reach({"a < b": terms["error"]}, model.encoder.parameters())
    assert str(reach).splitlines()[0] == "parameter  a < b"
    assert str(reach).splitlines()[1].startswith("0 ")
    assert '<th scope="col">a &lt; b</th>' in reach._repr_html_()


@pytest.mark.parametrize(
    ("terms", "parameters", "error", "message"),
    [
        (
            {"a": 1.0},
            [torch.ones(1, requires_grad=True)],
            TypeError,
            r"terms\['a'\] must be a tensor",
        ),
        (
            {"a": torch.ones(2)},
            [torch.ones(1, requires_grad=True)],
            ValueError,
            r"real scalar, got torch.float32, shape",
        ),
        ({"a": torch.ones(())}, [torch.ones(1)], ValueError, "requires a gradient, got none"),
    ],
)
def test_reach_refuses_bad_input(terms, parameters, error, message):
    with pytest.raises(error, match=message):
        gradient_reach(terms, parameters)


def test_reach_works_under_no_grad_and_with_sparse_gradients():
    table = nn.Embedding(5, 3, sparse=True)
    term = table(torch.tensor([0, 1])).square().sum()
    with torch.no_grad():
        reach = gradient_reach({"term": term}, table)
    assert reach["term"]["weight"] > 0


def test_reach_sees_through_a_reentrant_checkpoint_and_leaves_no_trace():
    block, head = nn.Linear(3, 3), nn.Linear(3, 1)
    model = nn.ModuleList([block, head])
    x = torch.randn(8, 3, requires_grad=True)
    hidden = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=True)
    term = head(torch.tanh(hidden)).square().mean()
    plain = gradient_reach({"term": head(torch.tanh(block(x))).square().mean()}, model)["term"]
    head.weight.grad = torch.ones(1, 3)
    reach = gradient_reach({"term": term}, model)["term"]
    assert reach == pytest.approx(plain)
    assert head.weight.grad.tolist() == [[1, 1, 1]]
    assert block.weight.grad is None
    assert x.grad is None


def test_reach_inside_a_trace_is_not_the_users_backward_pass():
    model = nn.Linear(3, 1)
    with trace_gradients(model) as trace:
        loss = model(torch.randn(8, 3)).square().mean()
        gradient_reach({"loss": loss}, model)
        loss.backward()
    assert trace.backward_calls == 1
