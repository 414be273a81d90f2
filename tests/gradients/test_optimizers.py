"""With an optimizer: which parameters it holds, and whether there was anything to step on."""

import copy

import pytest
import torch
from torch import nn

from saetools.gradients import trace_gradients


class ListOfLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(3, 3), nn.Linear(3, 3)]
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


class MadeAnew(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        weight = nn.Parameter(torch.randn(3, 3))
        return self.head(x @ weight)


def trained(model, optimizer, given=True, clear="before"):
    with trace_gradients(model, optimizer if given else None) as trace:
        for _ in range(2):
            if clear == "before":
                optimizer.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            if clear != "before":
                optimizer.zero_grad(set_to_none=clear == "none")
            optimizer.step()
    return trace


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_all_is_well():
    model = nn.Linear(3, 1)
    assert trained(model, sgd(model)).findings == []


def test_layers_in_a_python_list():
    model = ListOfLayers()
    [finding] = trained(model, sgd(model)).findings
    assert finding.kind == "not optimized"
    assert finding.source == "x = torch.tanh(layer(x))"
    trace = trained(model, sgd(model), given=False)  # another optimizer may hold them
    assert trace.findings == []
    assert "no optimizer that made a step here holds them" in str(trace)


def test_a_parameter_made_anew_in_forward():
    model = MadeAnew()
    [finding] = trained(model, sgd(model)).findings
    assert finding.kind == "not optimized"
    assert finding.source == "weight = nn.Parameter(torch.randn(3, 3))"


def test_the_optimizer_of_a_copy():
    model = nn.Linear(3, 1)
    trace = trained(model, sgd(copy.deepcopy(model)))
    assert [(f.kind, f.op) for f in trace.findings] == [("not optimized", "weight, bias")]
    assert "holds no parameter of this model" in str(trace)


@pytest.mark.parametrize("clear", ["none", "zeros"])
def test_gradients_cleared_between_the_backward_pass_and_the_step(clear):
    model = nn.Linear(3, 1)
    [finding] = trained(model, sgd(model), clear=clear).findings
    assert finding.kind == "cleared"
    assert finding.source == 'optimizer.zero_grad(set_to_none=clear == "none")'


def test_two_optimizers_that_take_turns_are_not_accused():
    a, b = nn.Linear(3, 3), nn.Linear(3, 1)
    model = nn.ModuleList([a, b])
    one, two = sgd(a), sgd(b)
    with trace_gradients(model, [one, two]) as trace:
        for _ in range(2):
            one.zero_grad()
            b(a(torch.randn(8, 3))).mean().backward()
            one.step()
            two.zero_grad()
            b(a(torch.randn(8, 3)).detach()).square().mean().backward()
            two.step()
    assert trace.findings == []


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_the_grad_of_what_is_no_leaf():
    with trace_gradients() as trace:
        weight = torch.randn(3, requires_grad=True) * 0.1
        weight.sum().backward()
        assert weight.grad is None
    [finding] = trace.findings
    assert (finding.kind, finding.source) == ("no leaf", "assert weight.grad is None")
    assert "Tensor.mul" in finding.reason


def test_everything_is_frozen():
    model = nn.Linear(3, 1).requires_grad_(False)
    with (
        pytest.raises(RuntimeError, match="does not require grad"),
        trace_gradients(model) as trace,
    ):
        model(torch.randn(8, 3)).square().mean().backward()
    [finding] = trace.findings
    assert "all are frozen" in finding.reason
