"""What is printed: findings first, what was set aside in a few lines, what was looked at last."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from saetools.gradients import Finding, Trace, trace_gradients


def test_the_last_line_says_what_was_looked_at():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    with trace_gradients(model) as trace:
        for _ in range(2):
            model(torch.randn(8, 3)).square().mean().backward()
    lines = str(trace).splitlines()
    assert lines[0] == "No fault found."
    assert lines[-1] == "12 operations, 2 backward calls, 4 of 4 parameters reached"


def test_numbers_that_left_are_shown_the_most_suspicious_first():
    model = nn.Linear(3, 1)
    with trace_gradients(model) as trace:
        out = model(torch.randn(8, 3))
        error, size = out.square().mean(), out.abs().mean()
        print(size.item())
        weight = 1 / error.item()
        spread = out.detach().numpy().std()
        loss = error * weight + size * float(spread)
        print(loss.item())
        loss.backward()
    assert trace.findings == []
    sources = [f.source for f in trace.not_accused]
    assert sources[0] == "spread = out.detach().numpy().std()"
    assert "print(loss.item())" not in sources  # the loss itself, for printing
    assert "if it comes back into the loss, this is your line" in str(trace)


def test_a_number_that_comes_back_is_recognised():
    model = nn.Linear(3, 1)
    with trace_gradients(model) as trace:
        out = model(torch.randn(8, 3))
        size = out.abs().mean().item()
        print(out.mean().item())
        (out.square().mean() + size).backward()
    assert [f.source for f in trace.findings] == ["size = out.abs().mean().item()"]


def test_what_is_set_aside_is_named_for_what_it_is():
    x = torch.randn(8, 3, requires_grad=True)
    with trace_gradients() as trace:
        soft = torch.sigmoid(x)
        code = (x > 0).float() + soft - soft.detach()
        (code * (x > 1).float()).sum().backward()
    reasons = {f.op: f.reason for f in trace.not_accused}
    assert trace.findings == []
    assert any("straight-through estimator" in reason for reason in reasons.values())


def test_a_satisfied_hinge_and_a_saturated_term_are_set_aside():
    model = nn.Linear(3, 2)
    with trace_gradients(model) as trace:
        out = model(torch.randn(40, 3))
        hinge = F.relu(out - 99).mean()
        flat = torch.sigmoid(out + 999).mean()
        (out.square().mean() + hinge + flat).backward()
    assert trace.findings == []
    text = str(trace)
    assert "at its floor" in text
    assert "saturated" in text


@pytest.mark.parametrize(
    ("make", "op", "words"),
    [
        (lambda z: z.clamp(min=0).exp(), "clamp", "A smooth bound keeps a slope"),
        (lambda z: (z * 0.01).round().exp(), "round", "borrow a slope"),
        (lambda z: torch.softmax(z[:, :1], 1) - 0.2, "softmax", "a single entry"),
        (lambda z: (F.relu(z - 99) - 1).tanh(), "relu", "softplus"),
    ],
)
def test_advice_fits_what_is_there(make, op, words):
    model = nn.Linear(3, 2)
    model.bias.data.fill_(-9.0)
    with trace_gradients(model) as trace:
        make(model(torch.randn(64, 3))).square().mean().backward()
    [finding] = trace.findings
    assert finding.op.endswith(op)
    assert words in finding.reason + finding.advice
    assert "eps *" not in finding.advice
    if op == "softmax":
        assert "saturated" not in finding.reason


def test_the_layer_of_a_sequential_is_named():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())
    model[2].bias.data.fill_(-50.0)
    for given, name in ((model, "model.3 (ReLU)"), (None, "layer 3 of the nn.Sequential (ReLU)")):
        with trace_gradients(given) as trace:
            F.mse_loss(model(torch.randn(64, 3)), torch.rand(64, 2)).backward()
        assert [f.layer for f in trace.findings] == [name]


def test_a_second_derivative_of_0_is_not_called_dead_units():
    model = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    x = torch.rand(64, 1, requires_grad=True)
    with trace_gradients(model) as trace:
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        (curve + model(x)).square().mean().backward()
    assert trace.findings == []
    assert "second derivative is 0" in str(trace)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (lambda: torch.no_grad(), "torch.no_grad of line"),
        (lambda: torch.set_grad_enabled(False), "torch.set_grad_enabled(False) of line"),
    ],
)
def test_the_block_that_switches_gradients_off_is_named(block, words):
    layer = nn.Linear(3, 3)
    x = torch.randn(8, 3)
    with trace_gradients(layer) as trace:
        y = layer(x)
        with block():
            penalty = layer(y).square().mean()
        (y.square().mean() + penalty).backward()
    [finding] = trace.findings
    assert finding.source == "penalty = layer(y).square().mean()"
    assert words in finding.reason


def test_a_trace_renders_as_a_small_table():
    finding = Finding("cut", "Tensor.gt", "a<b.py", 3, "x > 0", "why", "instead")
    trace = Trace([finding], [finding], operations=7, backward_calls=1)
    table = trace._repr_html_()
    assert '<th scope="col">kind</th>' in table
    assert "a&lt;b.py, line 3" in table
    assert "7 operations, 1 backward call" in table
    assert "set aside" in table


def test_parameters_that_no_loss_reaches_are_named():
    model = nn.ModuleDict(
        {
            "used": nn.Linear(3, 3),
            "lost": nn.Linear(3, 1),
            "idle": nn.Linear(3, 1),
            "frozen": nn.Linear(1, 1),
        }
    )
    model["frozen"].requires_grad_(False)
    x = torch.randn(40, 3)
    with trace_gradients(model) as trace:
        hidden = model["used"](x)
        print(model["lost"](hidden).sum())
        hidden.square().mean().backward()
    found = [(f.kind, f.op) for f in trace.findings]
    assert found == [("detached parameter", "lost.weight"), ("detached parameter", "lost.bias")]
    assert "Not used where gradients are recorded: idle.weight, idle.bias" in str(trace)


def test_nan_is_said_to_be_in_the_data_or_in_the_weights():
    model = nn.Linear(3, 1)
    x = torch.randn(8, 3)
    x[1, 1] = float("nan")
    with trace_gradients(model) as trace:
        model(x).square().mean().backward()
    assert "already in the data" in trace.findings[0].reason
    model.weight.data[0, 0] = float("nan")
    with trace_gradients(model) as trace:
        model(torch.randn(8, 3)).square().mean().backward()
    assert "already in the weights (weight)" in trace.findings[0].reason
