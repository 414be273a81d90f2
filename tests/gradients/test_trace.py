"""What the block promises besides the findings: bits, memory, warnings, errors, notebooks."""

import gc
import importlib.util
import weakref
from pathlib import Path

import nbformat
import pytest
import torch
import torch.utils.checkpoint
from nbclient import NotebookClient
from torch import nn

from saetools import PostedAutoencoder, chicago_context, posted_penalty
from saetools.gradients import trace_gradients
from saetools.gradients.cuts import Special
from saetools.gradients.leaves import Optimizers
from saetools.gradients.nodes import Passes
from saetools.gradients.verdict import Verdict
from saetools.gradients.watch import Watch


@pytest.mark.slow
def test_a_cell_of_a_real_notebook_is_named_by_its_line_and_shown_as_a_table(tmp_path):
    cell = """import torch
from saetools.gradients import trace_gradients
x = torch.ones(3, requires_grad=True)
with trace_gradients() as trace:
    y = x + 1
    z = (y > 0).sum()
print([(f.filename, f.lineno, f.source) for f in trace.findings])
trace"""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in ("1", cell)])
    NotebookClient(book, extra_arguments=["--log-level=ERROR"]).execute(cwd=tmp_path)
    printed, shown = book.cells[1].outputs
    assert printed.text == "[('notebook cell', 6, 'z = (y > 0).sum()')]\n"
    assert "<td>cut</td><td>Tensor.gt<br>notebook cell, line 6</td>" in shown.data["text/html"]


def test_the_posted_penalty_is_found_at_the_comparison_and_the_loop_is_not():
    x = chicago_context().train[:128]
    model = PostedAutoencoder(seed=0)
    with trace_gradients(model) as trace:
        output = model(x)
        loss = (output.reconstruction - x).square().mean()
        (loss + posted_penalty(output.latents, batch_size=x.numel())).backward()
    first, dead = trace.findings
    assert (first.kind, first.op) == ("cut", "Tensor.gt")
    assert first.source == "rho_hat = (encoded > 0).sum(dim=0)"
    assert first.filename.endswith("forum_post.py")
    assert (dead.kind, dead.op) == ("zeroed", "torch.relu")  # outputs that are silent on all rows
    assert dead.source == "return self.output(self.decoder[-1](latents))"
    assert "spreads below 0" in dead.reason
    assert "12 of 12 parameters reached" in str(trace)


def training(steps, traced):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 20))
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    x = torch.rand(32, 20)

    def loop():
        for _ in range(steps):
            hidden = model[:2](x)
            loss = (model(x) - x).square().mean() + (hidden > 0).float().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()

    if traced:
        with trace_gradients(model) as trace:
            loop()
        assert [f.op for f in trace.findings] == ["Tensor.gt"]  # the line once, not 200 times
    else:
        loop()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), torch.rand(3)


def test_tracing_changes_no_bit_and_no_random_number():
    plain, traced = training(200, traced=False), training(200, traced=True)
    assert torch.equal(plain[0], traced[0])
    assert torch.equal(plain[1], traced[1])


def test_no_graph_is_kept_alive():
    x = torch.randn(64, 4, requires_grad=True)
    with trace_gradients() as trace:
        hidden = torch.sigmoid(x)
        loss = (hidden > 0.5).float().mean() + hidden.mean()
        loss.backward()
    watched = [weakref.ref(hidden), weakref.ref(loss)]
    del hidden, loss
    gc.collect()
    assert [ref() for ref in watched] == [None, None]
    assert trace.findings


def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "trace_overhead.py"
    spec = importlib.util.spec_from_file_location("trace_overhead", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_traced_steps_hold_no_memory():
    assert benchmark().memory(steps=300) < 200 * 1024  # as much as 3,000 steps hold


@pytest.mark.nightly
def test_three_thousand_traced_steps_hold_no_memory_and_a_step_is_not_six_times_as_long():
    module = benchmark()
    assert module.memory(steps=3000) < 400 * 1024
    assert module.compare("small", module.small, steps=100, runs=5) < 6
    assert module.compare("posted", module.posted, steps=50, runs=5) < 6


@pytest.mark.nightly
def test_a_step_of_the_size_of_bert_is_not_three_times_as_long():
    module = benchmark()
    assert module.compare("bert", module.bert, steps=1, runs=2) < 3


def test_a_long_sum_is_not_slow_to_follow():
    x = torch.ones(2, requires_grad=True)
    with trace_gradients() as trace:
        total = x * 1
        for _ in range(1500):
            total = total + x * 1
        total.sum().backward()
    assert trace.findings == []
    assert x.grad.tolist() == [1501, 1501]


def test_an_error_in_the_block_is_the_users_and_the_trace_is_filled():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(ZeroDivisionError), trace_gradients() as trace:
        print((x > 0).sum() / (1 // 0))
    assert [f.op for f in trace.findings] == ["Tensor.gt"]


def test_what_was_borrowed_for_the_block_is_given_back():
    before = (nn.Parameter.__dict__["__new__"], torch.autograd.Variable.__dict__.get("__new__"))
    with pytest.raises(ZeroDivisionError), trace_gradients():
        print(1 // 0)
    after = (nn.Parameter.__dict__["__new__"], torch.autograd.Variable.__dict__.get("__new__"))
    assert before == after
    assert torch.is_grad_enabled()


def test_warnings_stay_what_they_were():
    x = torch.ones(2, requires_grad=True)
    with pytest.warns(UserWarning, match="copy construct") as plain:
        torch.tensor(x)
    with pytest.warns(UserWarning, match="copy construct") as traced, trace_gradients():
        torch.tensor(x)
    assert [w.category for w in plain] == [w.category for w in traced]
    assert traced[0].filename == plain[0].filename == __file__


@pytest.mark.filterwarnings("ignore")
def test_compiled_code_is_refused_and_the_advice_helps():
    compiled = torch.compile(lambda a: (a * 2).sum(), backend="aot_eager")
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"set_stance\(\"force_eager\"\)"), trace_gradients():
        (compiled(x) * 2).backward()
    if not hasattr(torch.compiler, "set_stance"):  # older than 2.6
        return
    with torch.compiler.set_stance("force_eager"), trace_gradients() as trace:
        (compiled(x) * 2).backward()
    assert trace.operations == 3


def test_tracers_nest():
    x = torch.ones(3, requires_grad=True)
    with trace_gradients() as outer, trace_gradients() as inner:
        (x.square().sum() + (x > 0).sum()).backward()
    assert [f.op for f in inner.findings] == ["Tensor.gt"]
    assert outer.operations == 0 or [f.op for f in outer.findings] == ["Tensor.gt"]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        *((Watch, "look_before"), (Watch, "see"), (Passes, "begin"), (Passes, "end")),
        *((Passes, "_see_node"), (Special, "see_grad"), (Special, "see_seam")),
        *((Optimizers, "see_backward"), (Optimizers, "_see_step"), (Verdict, "write")),
    ],
)
def test_a_failure_of_the_tracer_is_said_and_does_not_stop_the_code(owner, name, monkeypatch):
    def fail(*_):
        raise KeyError("planted")

    monkeypatch.setattr(owner, name, fail)
    with trace_gradients() as trace:
        x = nn.Parameter(torch.ones(3))
        x.square().sum().backward()
        assert x.grad.tolist() == [2, 2, 2]
        torch.optim.SGD([x], lr=0.25).step()
    assert x.tolist() == [0.5, 0.5, 0.5]
    assert "The tracer itself failed" in str(trace)


CUTS = {
    "item": "rate = rho_hat.mean().item()",
    "float()": "rate = float(rho_hat.mean())",
    "tolist": "rate = torch.tensor(rho_hat.tolist())",
    "Tensor.detach": "rate = rho_hat.detach().numpy()",
    "Tensor.gt": "accuracy = (pre > 0).float().mean()",
}


@pytest.mark.parametrize("op", CUTS)
def test_without_a_backward_pass_every_cut_is_a_finding(op):
    pre = torch.randn(8, 4, requires_grad=True)
    scope = {"torch": torch, "pre": pre, "rho_hat": torch.sigmoid(pre).mean(0)}
    with trace_gradients() as trace:
        exec(CUTS[op], scope)
    assert trace.findings[0].op.endswith(op)
    assert "No backward pass was seen" in str(trace)


def test_a_reentrant_checkpoint_hides_what_it_reaches_and_is_not_accused():
    model = nn.Linear(3, 3)
    x = torch.randn(4, 3, requires_grad=True)
    with trace_gradients(model) as trace:
        torch.utils.checkpoint.checkpoint(model, x, use_reentrant=True).sum().backward()
    assert trace.findings == []
    assert "2 of 2 parameters reached" in str(trace)
