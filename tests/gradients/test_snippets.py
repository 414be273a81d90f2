"""Snippets of a line or two: each fault marked on its line, each healthy one unaccused.

A line that ends in `#! kind op` must be found with that kind and that op; nothing else may be.
"""

import linecache
import os
import re
import tempfile
import warnings
from pathlib import Path

import pytest

from saetools.gradients import trace_gradients

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
            sparsity = pre.abs().mean()  #! cut torch.inference_mode
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
    "overwritten entries": """
        rate = rho_hat.clone()
        rate[2] = 0.001  #! zeroed Tensor.__setitem__
        loss = error + rate.log().sum()""",
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

# Terms of a loss that send nothing back, while all parameters get a gradient from another term:
# a satisfied hinge looks the same. They are shown, and not counted.
ASIDE = {
    "dead ReLU layer": "loss = error + torch.relu(pre - 99).mean()  #! zeroed torch.relu",
    "dead ReLU unit": """
        shift = torch.tensor([0.0, 0, 0, -99])
        loss = error + F.relu(pre + shift).mean()  #! zeroed torch.nn.functional.relu""",
    "saturated sigmoid": "loss = error + torch.sigmoid(pre + 999).mean()  #! zeroed torch.sigmoid",
    "saturated tanh": "loss = error + torch.tanh(pre + 99).mean()  #! zeroed torch.tanh",
    "hard tanh": "loss = error + F.relu6(pre + 99).mean()  #! zeroed torch.nn.functional.relu6",
}

HEALTHY = {
    "masked_fill of everything": """
        mask = torch.ones(64, 4, dtype=torch.bool)
        loss = error + pre.masked_fill(mask, 1.0).mean()""",
    "masked out": """
        mask = torch.zeros(64, 4, dtype=torch.bool)
        loss = error + (pre * mask).mean()""",
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


@pytest.mark.parametrize("name", ASIDE)
def test_what_may_be_on_purpose_is_shown_and_not_accused(name, tmp_path):
    trace, marks = run(ASIDE[name], place("file", tmp_path))
    assert trace.findings == []
    assert marks[0] in summary(trace.not_accused)


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_code_is_not_accused(name, tmp_path):
    trace, _ = run(HEALTHY[name], place("file", tmp_path))
    assert trace.findings == [], str(trace)
    assert "itself failed" not in str(trace)
