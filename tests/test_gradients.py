"""A table of faults, each marked on its line, and a table of healthy code.

A line that ends in `#! kind op` must be found with that kind and that op; nothing else may be.
"""

import linecache
import os
import re
import tempfile
import warnings
from pathlib import Path

import nbformat
import pytest
import torch
import torch.utils.checkpoint
from nbclient import NotebookClient
from torch import nn

from saetools import PostedAutoencoder, SparseAutoencoder, chicago_context, posted_penalty
from saetools.gradients import gradient_reach, trace_gradients

SETUP = """
import warnings
import torch
import torch.nn.functional as F
from torch import nn
warnings.simplefilter("ignore")  # torch warns of some of these cuts by itself
torch.manual_seed(0)
x = torch.randn(64, 4)
w = torch.randn(4, 4, requires_grad=True)
pre = x @ w
error = pre.square().mean()
rho_hat = torch.sigmoid(pre).mean(0)
"""

FAULTS = {
    # cuts, with the error beside them, as in the post
    "gt": "loss = error + (pre > 0).float().mean()  #! cut Tensor.gt",
    "ge": "loss = error + torch.ge(pre, 0).float().mean()  #! cut torch.ge",
    "lt": "loss = error + (pre < 0).float().mean()  #! cut Tensor.lt",
    "eq": "loss = error + (pre.round() == 1).float().mean()  #! cut Tensor.eq",
    "ne": "loss = error + torch.ne(pre, 0).float().mean()  #! cut torch.ne",
    "argmax": "loss = error + pre.argmax(1).float().mean()  #! cut Tensor.argmax",
    "argsort": "loss = error + torch.argsort(pre).float().mean()  #! cut torch.argsort",
    "long": "loss = error + pre.long().float().mean()  #! cut Tensor.long",
    "int": "loss = error + pre.int().float().mean()  #! cut Tensor.int",
    "bool": "loss = error + pre.bool().float().mean()  #! cut Tensor.bool",
    "to": "loss = error + pre.to(torch.int64).float().mean()  #! cut Tensor.to",
    "detach": "loss = error + pre.detach().abs().mean()  #! cut Tensor.detach",
    "data": "loss = error + pre.data.abs().mean()  #! cut Tensor.data",
    "tensor": """
        loss = error + torch.tensor(rho_hat).mean()  #! cut torch.tensor""",
    "tensor of tensors": """
        loss = error + torch.tensor([rho_hat[0], rho_hat[1]]).mean()  #! cut torch.tensor""",
    "no_grad": """
        with torch.no_grad():
            sparsity = pre.abs().mean()  #! cut torch.no_grad
        loss = error + sparsity""",
    "inference_mode": """
        with torch.inference_mode():
            sparsity = pre.abs().mean()  #! cut torch.no_grad
        loss = error + sparsity.clone()""",
    "in a helper": """
        def frequency(code):
            return (code > 0).float().mean(0)  #! cut Tensor.gt
        loss = error + frequency(pre).sum()""",
    "through in-place writes": """
        rate = (pre > 0).float().mean(0)  #! cut Tensor.gt
        for index in range(4):
            if rate[index] == 0:
                rate[index] = 0.001
        loss = error + rate.log().sum()""",
    "into a fresh tensor, by index": """
        rates = torch.zeros(4)
        rates[1] = (pre[:, 1] > 0).float().mean()  #! cut Tensor.gt
        loss = error + rates.sum()""",
    "stacked with the error": """
        loss = torch.stack([error, (pre > 0).float().mean()]).sum()  #! cut Tensor.gt""",
    "sum of a list": """
        loss = sum([error, (pre > 0).float().mean()])  #! cut Tensor.gt""",
    "two cuts": """
        first = (pre > 0).float().mean()  #! cut Tensor.gt
        loss = error + first + pre.detach().mean()  #! cut Tensor.detach""",
    "the index beside a value": """
        values, where = pre.max(1)
        loss = error + values.mean()
        loss = loss + pre.max(1)[1].float().mean()  #! cut Tensor.max""",
    "a gradient penalty without create_graph": """
        points = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad((points @ w).sum(), points)  #! cut torch.autograd.grad
        loss = error + (slope.norm(dim=1) - 1).square().mean()""",
    "requires_grad_ by hand": """
        rate = (pre > 0).float().mean(0).requires_grad_()  #! cut Tensor.gt
        loss = error + rate.sum()""",
    # a cut that is the whole loss: backward raises, and the line is named all the same
    "nothing but a cut": """
        loss = (pre > 0).float().mean()  #! cut Tensor.gt
        failed = True""",
    # zeroed
    "clamp of dead units": """
        rate = (pre.clamp(0, 1) * torch.tensor([0.0, 1, 1, 1])).mean(0)
        loss = error + rate.clamp(0.001, 0.999).log().sum()  #! zeroed Tensor.clamp""",
    "round": "loss = error + pre.round().mean()  #! zeroed Tensor.round",
    "floor": "loss = error + torch.floor(pre).mean()  #! zeroed torch.floor",
    "sign": "loss = error + torch.sign(pre).mean()  #! zeroed torch.sign",
    "dead ReLU layer": "loss = error + torch.relu(pre - 99).mean()  #! zeroed torch.relu",
    "dead ReLU unit": """
        shift = torch.tensor([0.0, 0, 0, -99])
        loss = error + F.relu(pre + shift).mean()  #! zeroed torch.nn.functional.relu""",
    "saturated sigmoid": "loss = error + torch.sigmoid(pre + 999).mean()  #! zeroed torch.sigmoid",
    "saturated tanh": "loss = error + torch.tanh(pre + 99).mean()  #! zeroed torch.tanh",
    "overwritten entries": """
        rate = rho_hat.clone()
        rate[2] = 0.001  #! zeroed Tensor.__setitem__
        loss = error + rate.log().sum()""",
    "masked out": """
        mask = torch.zeros(64, 4, dtype=torch.bool)
        loss = error + (pre * mask).mean()  #! zeroed Tensor.mul""",
    "masked_fill of everything": """
        mask = torch.ones(64, 4, dtype=torch.bool)
        loss = error + pre.masked_fill(mask, 1.0).mean()  #! zeroed Tensor.masked_fill""",
    "hard tanh": "loss = error + F.relu6(pre + 99).mean()  #! zeroed torch.nn.functional.relu6",
    # not finite
    "sqrt at 0": "loss = error + (pre * 0).sum().sqrt()  #! not_finite Tensor.sqrt",
    "norm at 0 by hand": """
        squares = (pre * 0).square().sum(1)
        loss = error + torch.sqrt(squares).mean()  #! not_finite torch.sqrt""",
    "log at 0": "loss = error + (pre * 0).log().mean()  #! not_finite Tensor.log",
    "division by 0": """
        loss = error + (rho_hat / torch.tensor([0.0, 1, 1, 1])).sum()  #! not_finite Tensor.div""",
    "the where trap": """
        values = (pre - pre.detach()) + x.clamp(min=0)
        logs = values.sqrt()  #! not_finite Tensor.sqrt
        loss = error + torch.where(values > 0, logs, torch.zeros_like(logs)).mean()""",
    "log of a negative number": """
        rate = (pre > 0).float().mean(0) * 20  #! cut Tensor.gt
        loss = error + (1 - rate).log().sum()  #! not_finite Tensor.log""",
}

# The same without a backward pass: every cut is a finding, into a Python number as well.
NUMBERS = {
    "item": "rate = rho_hat.mean().item()  #! cut Tensor.item",
    "float": "rate = float(rho_hat.mean())  #! cut float()",
    "tolist": "rate = torch.tensor(rho_hat.tolist())  #! cut Tensor.tolist",
    "numpy": "rate = rho_hat.detach().numpy()  #! cut Tensor.detach",
    "vmap": "rate = torch.func.vmap(lambda row: (row > 0).float().mean())(pre)  #! cut Tensor.gt",
    "metric": "accuracy = (pre > 0).float().mean()  #! cut Tensor.gt",
}

HEALTHY = {
    "training step with dropout and batch norm": """
        net = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Dropout(0.5))
        loss = net(x).square().mean()""",
    "ReLU and dropout of a tenth": """
        loss = F.dropout(torch.relu(pre), 0.1).square().mean()""",
    "attention with a mask": """
        layer = nn.MultiheadAttention(4, 2, batch_first=True)
        mask = torch.triu(torch.ones(8, 8, dtype=torch.bool), 1)
        out, _ = layer(pre.view(8, 8, 4), pre.view(8, 8, 4), pre.view(8, 8, 4), attn_mask=mask)
        loss = out.square().mean()""",
    "attention by hand": """
        scores = pre[:8] @ pre[:8].T / 2
        mask = torch.triu(torch.ones(8, 8, dtype=torch.bool), 1)
        loss = scores.masked_fill(mask, float("-inf")).softmax(-1).square().mean()""",
    "straight-through, hard plus soft": """
        soft = torch.sigmoid(pre)
        loss = error + ((pre > 0).float() + (soft - soft.detach())).mean()""",
    "straight-through, soft plus detached": """
        soft = torch.sigmoid(pre)
        loss = error + (soft + ((pre > 0).float() - soft).detach()).mean()""",
    "straight-through, left to right": """
        soft = torch.sigmoid(pre)
        loss = error + ((pre > 0).float() + soft - soft.detach()).mean()""",
    "straight-through rounding": """
        loss = error + (pre + (pre.round() - pre).detach()).mean()""",
    "gumbel softmax, hard": "loss = error + F.gumbel_softmax(pre, hard=True)[:, 0].mean()",
    "JumpReLU as a gate": "loss = error + (pre * (pre > 0.1)).mean()",
    "leaky ReLU by hand": "loss = error + torch.where(pre > 0, pre, 0.1 * pre).mean()",
    "custom Function": """
        class Step(torch.autograd.Function):
            @staticmethod
            def forward(ctx, z):
                ctx.save_for_backward(z)
                return (z > 0).float()

            @staticmethod
            def backward(ctx, g):
                (z,) = ctx.saved_tensors
                return g * (z.abs() < 0.5).float()

        loss = error + Step.apply(pre).mean()""",
    "metrics for printing": """
        accuracy = (pre > 0).float().mean().item()
        firing = (pre > 0).float().mean(0)
        norm = float(pre.detach().norm())
        loss = error""",
    "checkpointing": """
        from torch.utils.checkpoint import checkpoint
        loss = sum(
            checkpoint(lambda a: torch.tanh(a) * 2, pre, use_reentrant=mode).square().mean()
            for mode in (False, True)
        )""",
    "mixed precision on the CPU": """
        layer = nn.Linear(4, 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = layer(x).float().square().mean()""",
    "an optimizer step, clipping, and state dicts": """
        net = nn.Linear(4, 2)
        adam = torch.optim.Adam(net.parameters())
        net(x).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        net.load_state_dict(net.state_dict())
        loss = net(x).square().mean()""",
    "initialisation in place": """
        layer = nn.Linear(4, 4)
        nn.init.orthogonal_(layer.weight)
        with torch.no_grad():
            layer.weight /= layer.weight.norm()
            layer.bias -= 1
        loss = layer(x).square().mean()""",
    "a stopped gradient as a target": "loss = (pre[1:] - pre[:-1].detach()).square().mean()",
    "a detached scale": "loss = (pre / pre.detach().std()).abs().mean()",
    "values, indices, masks": """
        top, where = pre.topk(2, dim=1)
        chosen = pre.gather(1, where)
        loss = (top + chosen + pre[pre > 0].mean()).mean()""",
    "recurrent network": """
        out, _ = nn.LSTM(4, 8, batch_first=True)(pre.view(8, 8, 4))
        loss = out.square().mean()""",
    "convolution and pooling": """
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        loss = net(torch.randn(16, 1, 12, 12)).square().mean()""",
    "torch.func": """
        slope = torch.func.grad(lambda a: a.tanh().square().sum())(x)
        each = torch.func.vmap(torch.func.grad(lambda a: a.square().sum()))(x)
        loss = error""",
    "hooks and shared modules": """
        layer = nn.Linear(4, 4)
        layer.register_forward_hook(lambda module, args, out: out * 2)
        hidden = layer(x)
        hidden.register_hook(lambda g: g * 2)
        loss = layer(torch.tanh(hidden)).square().mean()""",
    "several losses": """
        error.backward(retain_graph=True)
        torch.autograd.backward([error * 2], retain_graph=True)
        grads = torch.autograd.grad(error, w, retain_graph=True)
        loss = error""",
    "second derivatives": """
        (slope,) = torch.autograd.grad(pre.tanh().sum(), w, create_graph=True)
        loss = slope.square().sum()""",
    "weights loaded, inputs compared": """
        labels = (x.sum(1) > 0).long()
        loss = F.cross_entropy(pre, labels)""",
    "detached and started anew, as in a gradient penalty": """
        fake = torch.tanh(pre).detach().requires_grad_()
        (slope,) = torch.autograd.grad((fake @ w).sum(), fake, create_graph=True)
        loss = ((slope.norm(dim=1) - 1) ** 2).mean() + (fake @ w).mean()""",
    "a target of one number": """
        target = 1 + 0.9 * pre.mean().detach()
        loss = (target - pre[0].mean()).square()""",
    "log-sum-exp by hand": """
        values = pre[0]
        top = values.max().detach()
        loss = top + (values - top).exp().sum().log()""",
    "recurrent network by hand, states at 0": """
        state = torch.zeros(64, 4)
        loss = (torch.sigmoid(pre) * state + (state @ w).tanh() + pre).square().mean()""",
    "LoRA and a weight of 0": """
        a, b = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.zeros(2, 4))
        loss = (pre + pre @ a @ b).square().mean() + 0.0 * pre.abs().mean()""",
    "clipped ratios and hinges, a number a row": """
        ratio = pre.mean(1).exp()
        hinge = (1 - pre[:, 0]).clamp(min=0)
        loss = torch.min(ratio, ratio.clamp(0.8, 1.2)).mean() + hinge.mean()""",
    "writes made from what they overwrite": """
        y = pre * 1
        y[:, 0] += 1
        y[:, 1] = torch.sigmoid(y[:, 1])
        loss = y.square().mean()""",
    "losses of some rows left out": """
        each = pre.square().mean(1)
        each[x[:, 0] > 0] = 0
        loss = each.mean()""",
    "infinite constants": """
        start = torch.full((4,), float("-inf"))
        start[0] = 0.0
        bias = torch.log(torch.tril(torch.ones(4, 4)))
        loss = (start + pre).logsumexp(1).mean() + (pre[:4] + bias).softmax(1).square().mean()""",
    "straight-through, a slope of half the size": """
        soft = torch.sigmoid(pre)
        loss = error + ((pre > 0).float() + 0.5 * (soft - soft.detach())).mean()""",
    "sparse gradients": """
        rows = torch.tensor([0, 1])
        loss = nn.Embedding(5, 3, sparse=True)(rows).square().sum()""",
    "a lazy layer": "loss = nn.LazyLinear(3)(pre).square().mean()",
    "nothing selected": "loss = pre[pre > 1e9].sum() + error",
    "a tracer inside": """
        from saetools.gradients import trace_gradients
        with trace_gradients():
            loss = torch.relu(pre).square().mean()
            loss.backward(retain_graph=True)""",
    "attribute access": """
        facts = (pre.is_leaf, pre.requires_grad, pre.shape, pre.grad_fn, len(pre), w.grad)
        text = f"{pre.ndim} {pre.device}"
        loss = error if pre.numel() else None""",
}


def dedent(snippet):
    lines = snippet.strip("\n").split("\n")
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return [line[indent:] for line in lines]


def run(snippet, filename, backward=True):
    """The findings in a snippet that stands in a file of this name, and the marks in it."""
    lines = SETUP.strip("\n").split("\n") + dedent(snippet)
    source = "\n".join(lines) + "\n"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    scope = {"__name__": "snippet"}
    code = compile(source, filename, "exec")
    with warnings.catch_warnings(), trace_gradients() as trace:
        exec(code, scope)
        if scope.get("failed"):
            with pytest.raises(RuntimeError, match="does not require grad"):
                scope["loss"].backward()
        elif backward:
            scope["loss"].backward()
    marks = []
    for number, line in enumerate(lines, 1):
        if mark := re.search(r"#! (\S+) (\S+)", line):
            marks.append((mark[1].replace("_", " "), mark[2], number, line.strip()))
    return trace, marks


def place(kind, tmp_path):
    if kind == "file":
        return str(tmp_path / "snippet.py")
    return f"{tempfile.gettempdir()}/ipykernel_{os.getpid()}/123456.py"  # as ipykernel names a cell


def summary(findings):
    return [(f.kind, f.op, f.lineno, f.source) for f in findings]


@pytest.mark.parametrize("where", ["file", "cell"])
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_where_it_is_and_nothing_else_is(name, where, tmp_path):
    filename = place(where, tmp_path)
    trace, marks = run(FAULTS[name], filename)
    assert marks
    assert sorted(summary(trace.findings)) == sorted(marks), str(trace)
    for finding in trace.findings:
        expected = (
            "notebook cell" if where == "cell" else Path(os.path.relpath(filename)).as_posix()
        )
        assert finding.filename == expected
        assert finding.reason
        assert finding.advice
        assert 0 < finding.share <= 1


@pytest.mark.parametrize("name", NUMBERS)
def test_without_a_backward_pass_every_cut_is_a_finding(name, tmp_path):
    filename = place("file", tmp_path)
    trace, marks = run(NUMBERS[name], filename, backward=False)
    assert summary(trace.findings) == marks
    trace, _ = run(NUMBERS[name] + "\nloss = error", filename)  # and aside where one was seen
    assert trace.findings == []
    assert [f.op for f in trace.aside] == [marks[0][1]]


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_code_is_not_accused(name, tmp_path):
    trace, _ = run(HEALTHY[name], place("file", tmp_path))
    assert trace.findings == [], str(trace)


def test_a_cell_of_a_real_notebook_is_named_by_its_line(tmp_path):
    cell = """import torch
from saetools.gradients import trace_gradients
x = torch.ones(3, requires_grad=True)
with trace_gradients() as trace:
    y = x + 1
    z = (y > 0).sum()
print([(f.filename, f.lineno, f.source) for f in trace.findings])"""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in ("1", cell)])
    NotebookClient(book, extra_arguments=["--log-level=ERROR"]).execute(cwd=tmp_path)
    [output] = book.cells[1].outputs
    assert output.text == "[('notebook cell', 6, 'z = (y > 0).sum()')]\n"


def test_straight_through_is_called_by_its_name(tmp_path):
    for name in (name for name in HEALTHY if name.startswith("straight-through")):
        trace, _ = run(HEALTHY[name], place("file", tmp_path))
        assert trace.aside
        assert all("straight-through estimator" in f.reason for f in trace.aside), name


def test_the_posted_penalty_is_found_at_the_comparison_and_the_loop_is_not():
    x = chicago_context().train[:128]
    model = PostedAutoencoder(seed=0)
    with trace_gradients(model) as trace:
        output = model(x)
        loss = (output.reconstruction - x).square().mean()
        (loss + posted_penalty(output.latents, batch_size=x.numel())).backward()
    first = trace.findings[0]
    assert (first.kind, first.op) == ("cut", "Tensor.gt")
    assert first.source == "rho_hat = (encoded > 0).sum(dim=0)"
    assert first.filename.endswith("forum_post.py")
    assert [f for f in trace.findings if f.kind == "cut"] == [first]
    assert all("index" not in f.source for f in trace.findings)
    dead = [f for f in trace.findings if f.source == "latents = torch.relu(pre_activations)"]
    assert [f.kind for f in dead] == ["zeroed"]
    assert str(trace).startswith(
        f"{len(trace.findings)} finding(s), 0 set aside\n1. cut at Tensor.gt"
    )


def test_parameters_that_no_loss_reaches_are_named():
    model = nn.ModuleDict(
        {"used": nn.Linear(3, 3), "lost": nn.Linear(3, 1), "frozen": nn.Linear(1, 1)}
    )
    model["frozen"].requires_grad_(False)
    x = torch.randn(40, 3)
    with trace_gradients(model) as trace:
        hidden = model["used"](x)
        (hidden.square().mean() + model["lost"](hidden).detach().sum()).backward()
    assert [(f.kind, f.op) for f in trace.findings] == [
        ("cut", "Tensor.detach"),
        ("detached parameter", "lost.weight"),
        ("detached parameter", "lost.bias"),
    ]


def test_a_reentrant_checkpoint_hides_what_it_reaches_and_is_not_accused():
    model = nn.Linear(3, 3)
    x = torch.randn(4, 3, requires_grad=True)
    with trace_gradients(model) as trace:
        torch.utils.checkpoint.checkpoint(model, x, use_reentrant=True).sum().backward()
    assert trace.findings == []


def test_a_long_sum_is_not_slow_to_follow():
    x = torch.ones(2, requires_grad=True)
    with trace_gradients() as trace:
        total = x * 1
        for _ in range(1500):
            total = total + x * 1
        total.sum().backward()
    assert trace.findings == []
    assert x.grad.tolist() == [1501, 1501]


def test_reach_works_under_no_grad_and_with_sparse_gradients():
    table = nn.Embedding(5, 3, sparse=True)
    term = table(torch.tensor([0, 1])).square().sum()
    with torch.no_grad():
        reach = gradient_reach({"term": term}, table)
    assert reach["term"]["weight"] > 0


def test_the_share_says_how_many_units_are_dead():
    x = torch.randn(64, 4, requires_grad=True)
    with trace_gradients() as trace:
        torch.relu(x + torch.tensor([0.0, -99, -99, 0])).sum().backward()
    assert [f.share for f in trace.findings] == [0.5]
    assert "(50 % of its entries or units)" in str(trace)


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
        assert trace.findings[0].op == "Tensor.gt"
        assert (
            len([f for f in trace.findings if f.kind == "cut"]) == 1
        )  # the line once, not 200 times
    else:
        loop()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), torch.rand(3)


def test_tracing_changes_no_bit_and_no_random_number():
    plain, traced = training(200, traced=False), training(200, traced=True)
    assert torch.equal(plain[0], traced[0])
    assert torch.equal(plain[1], traced[1])


def test_no_graph_is_kept_alive():
    import gc
    import weakref

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


def test_an_error_in_the_block_is_the_users_and_the_trace_is_filled():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(ZeroDivisionError), trace_gradients() as trace:
        print((x > 0).sum() / (1 // 0))
    assert [f.op for f in trace.findings] == ["Tensor.gt"]


def test_warnings_stay_what_they_were():
    x = torch.ones(2, requires_grad=True)
    with pytest.warns(UserWarning, match="copy construct") as plain:
        torch.tensor(x)
    with pytest.warns(UserWarning, match="copy construct") as traced, trace_gradients():
        torch.tensor(x)
    assert [w.category for w in plain] == [w.category for w in traced]
    assert traced[0].filename == plain[0].filename == __file__


@pytest.mark.filterwarnings("ignore")
def test_compiled_code_is_refused():
    compiled = torch.compile(lambda a: (a * 2).sum(), backend="aot_eager")
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"cannot see inside torch\.compile"), trace_gradients():
        (compiled(x) * 2).backward()


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
