"""Each check accepts a right answer, and names the mistake of each wrong one.

The solutions printed in the notebooks are run in test_notebooks.py.
"""

import pytest
import torch

from saetools import PostedAutoencoder, chicago_context, smooth
from saetools.gradients import gradient_reach, trace_gradients
from saetools.tutorial.exercises.nb01 import check_reaches, check_verdicts, suspects
from saetools.tutorial.exercises.nb02 import (
    check_gradient_kinds,
    check_kept_inside,
    check_planted_faults,
)


def not_answered(*_):
    raise NotImplementedError


def printed(capsys, check, *arguments):
    check(*arguments)
    return capsys.readouterr().out


def test_an_exercise_that_is_not_answered_is_no_error(capsys):
    for check in (check_reaches, check_verdicts, check_kept_inside):
        assert "not answered yet" in printed(capsys, check, not_answered)
    assert "not answered yet" in printed(capsys, check_gradient_kinds, not_answered, {})


def right(term, parameters, **options):
    if not term.requires_grad:
        return False
    options = {"allow_unused": True, "retain_graph": True} | options
    return any(g is not None for g in torch.autograd.grad(term, list(parameters), **options))


def only_if_not_zero(term, parameters):
    return term.requires_grad and any(
        g is not None and (g != 0).any()
        for g in torch.autograd.grad(term, list(parameters), allow_unused=True, retain_graph=True)
    )


def by_backward(term, parameters):
    term.backward(retain_graph=True)
    return any(parameter.grad is not None for parameter in parameters)


def clearing(term, parameters):
    parameters = list(parameters)
    for parameter in parameters:
        parameter.grad = None
    return right(term, parameters)


def backward_and_clear(term, parameters):
    found = term.requires_grad and by_backward(term, parameters)
    return clearing(term, parameters) and found


def through_twice(term, parameters):
    used = sum(parameter.requires_grad for parameter in parameters)
    return used > 0 and right(term, parameters)


def of_the_first(term, parameters):
    return right(term, list(parameters)[:1])


def by_walking(term, parameters):
    wanted, nodes = {id(parameter) for parameter in parameters}, [term.grad_fn]
    while nodes:
        node = nodes.pop()
        if id(getattr(node, "variable", None)) in wanted:
            return True
        nodes += [behind for behind, _ in node.next_functions] if node else []
    return False


def without_a_look_at_none(term, parameters):
    options = {"allow_unused": True, "retain_graph": True}
    found = torch.autograd.grad(term, list(parameters), **options) if term.requires_grad else []
    return sum(gradient.abs().sum() for gradient in found) > 0


def one_by_one(term, parameters):
    return any(right(term, [parameter]) for parameter in parameters)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (right, "correct."),
        (by_walking, "correct."),
        (one_by_one, "correct."),
        (lambda t, p: torch.tensor(right(t, p)), "correct."),
        (clearing, "writes to .grad, or clears it"),
        (backward_and_clear, "writes to .grad, or clears it"),
        (through_twice, "a generator of parameters, such as model.parameters()"),
        (
            lambda t, p: any(right(t, [p[i]]) for i in range(len(p))),
            "such as model.parameters() makes it raise",
        ),
        (of_the_first, "uses only the last of the parameters: expected True, got False"),
        (without_a_look_at_none, "some of the parameters makes it raise: 'NoneType'"),
        (lambda t, p: None, "it returns nothing: return True or False"),
        (lambda t, p: (right(t, p),), "it returns tuple"),
        (lambda t, p: str(right(t, p)), "it returns str"),
        (
            lambda t, p: t.requires_grad,
            "none that leads to these parameters: expected False, got True",
        ),
        (lambda t, p: True, "a term without a grad_fn: expected False, got True"),
        (by_backward, "writes to .grad"),
        (only_if_not_zero, "nothing but zeros arrives: expected True, got False"),
        (lambda t, p: right(t, p, allow_unused=False), "some of the parameters makes it raise"),
        (lambda t, p: right(t, p, retain_graph=False), "keep its graph"),
        (
            lambda t, p: bool(torch.autograd.grad(t, p, retain_graph=True)),
            "without a grad_fn makes",
        ),
    ],
)
def test_reaches(capsys, answer, says):
    assert says in printed(capsys, check_reaches, answer)


def gradients(suspect, weight):
    model, batch = PostedAutoencoder(seed=0), chicago_context().train[:128]
    output = model(batch)
    error = (output.reconstruction - batch).square().mean()
    (error + weight * suspect(output)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def by_experiment(suspects, largest=1e9, same=torch.equal):
    verdicts = {}
    for name, suspect in suspects.items():
        without, once, often = (gradients(suspect, weight) for weight in (0, 1, largest))
        small = (once - without).norm() < 0.01 * without.norm()
        verdicts[name] = "no effect" if same(often, without) else "weak" if small else "strong"
    return verdicts


def by_value(suspects):
    output = PostedAutoencoder(seed=0)(chicago_context().train[:128])
    return {name: "strong" if term(output) > 1e-9 else "weak" for name, term in suspects.items()}


def on_other_rows(suspects):
    def gradient(suspect, rows):
        model = PostedAutoencoder(seed=0)
        output = model(rows)
        ((output.reconstruction - rows).square().mean() + suspect(output)).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    first, second = chicago_context().train[:256].split(128)
    same = {n: torch.equal(gradient(s, first), gradient(s, second)) for n, s in suspects.items()}
    return {name: "no effect" if equal else "strong" for name, equal in same.items()}


def by_grad_fn(suspects):
    output = PostedAutoencoder(seed=0)(chicago_context().train[:128])
    carries = {name: suspect(output).requires_grad for name, suspect in suspects.items()}
    return {"A": "weak"} | {n: "strong" if carries[n] else "no effect" for n in "BCD"}


def by_reach(suspects):
    model, batch = PostedAutoencoder(seed=0), chicago_context().train[:128]
    output = model(batch)
    error = (output.reconstruction - batch).square().mean()
    terms = {name: suspect(output) for name, suspect in suspects.items()} | {"error": error}
    reach = gradient_reach(terms, model)
    norms = {n: sum(g**2 for g in of.values() if g not in KINDS) ** 0.5 for n, of in reach.items()}
    verdict = {n: "weak" if norms[n] < 0.01 * norms["error"] else "strong" for n in suspects}
    return {n: verdict[n] if norms[n] else "no effect" for n in suspects}


KINDS = ("no path", "zero", "not finite")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (by_experiment, "correct."),
        (by_reach, "correct."),
        (lambda s: by_experiment(s, largest=1), "correct."),
        (on_other_rows, "not all four are strong. Take the same network and the same batch"),
        (by_grad_fn, "D is not 'strong': it changes the value of the loss"),
        (by_grad_fn, "A grad_fn proves nothing either"),
        (lambda s: by_experiment(s) | {"A": "strong"}, "over the norm of the whole gradient"),
        (lambda s: by_experiment(s, 1, torch.allclose), "A is not 'no effect': at a weight of 1"),
        (by_value, "B is not 'strong': it changes the value of the loss"),
        (lambda s: by_experiment(s, same=lambda *_: False), "B is not 'weak': the gradient is"),
        (lambda s: by_experiment(s) | {"A": "strong"}, "A is not 'strong': with a weight of 1"),
        (lambda s: by_experiment(s) | {"C": "weak"}, "C is not 'weak': with a weight of 1"),
        (lambda s: by_experiment(s) | {"C": "no effect"}, "Was the penalty in the loss"),
        (lambda s: by_experiment({"A": suspects()["A"]}), "no verdict yet on B"),
        (lambda s: by_experiment(s) | {"D": "dead"}, "D: a verdict is"),
        (lambda s: ["weak"] * 4, "expected a dict, penalty -> verdict, got list"),
    ],
)
def test_verdicts(capsys, answer, says):
    assert says in printed(capsys, check_verdicts, answer)


CANDIDATES = {
    "count": lambda pre: (pre > 0).float().mean(0),
    "sigmoid": lambda pre: torch.sigmoid(pre).mean(0),
    "sign": lambda pre: torch.sign(pre).mean(0),
    "rebuilt": lambda pre: torch.tensor(pre.mean(0).tolist(), requires_grad=True),
}
TRUTH = {"count": "none", "sigmoid": "some", "sign": "zero", "rebuilt": "none"}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (TRUTH, "correct."),
        ({"count": "none"}, "no answer yet on rebuilt, sigmoid, sign"),
        (TRUTH | {"sign": "some"}, "sign: not 'some': a grad_fn is no proof"),
        (TRUTH | {"sign": "none"}, "sign: not 'none': there is a grad_fn, and a path"),
        (TRUTH | {"rebuilt": "zero"}, "rebuilt: not 'zero': zeros need a path"),
        (TRUTH | {"rebuilt": "some"}, "rebuilt: not 'some': nothing arrives where no path"),
        (TRUTH | {"sigmoid": "zero"}, "sigmoid: not 'zero': some entries"),
        (TRUTH | {"sigmoid": "none"}, "sigmoid: not 'none': a path leads back"),
        (TRUTH | {"count": ["none"]}, "got ['none']"),
        (TRUTH | {"own": "some"}, "correct."),
        (None, "expected a dict, candidate -> kind, got NoneType"),
        (TRUTH | {"count": "nothing"}, "the answer is 'none', 'zero' or 'some', got 'nothing'"),
    ],
)
def test_gradient_kinds(capsys, answer, says):
    assert says in printed(capsys, check_gradient_kinds, lambda: answer, CANDIDATES)


def set_data(rho_hat):
    rho_hat.data.clamp_(0.001, 0.999)
    return rho_hat


def overwrite(rho_hat):
    rho_hat = rho_hat.clone()
    rho_hat[rho_hat < 0.001] = 0.001
    rho_hat[rho_hat > 0.999] = 0.999
    return rho_hat


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda r: 0.001 + 0.998 * r, "correct."),
        (lambda r: r + (r.clamp(0.001, 0.999) - r).detach(), "correct."),
        (lambda r: torch.stack([0.001 + 0.998 * value for value in r]), "correct."),
        (lambda r: smooth(r, eps=0.001), "correct."),
        (set_data, "correct."),
        (lambda r: r, "every value must lie in"),
        (lambda r: 0.001 + 0.999 * r, "must lie in [0.001, 0.999]: 0.9995 becomes 0.999501"),
        (lambda r: r.sigmoid(), "no value may move by more than about 0.001: 0 becomes 0.5"),
        (lambda r: r * torch.nan, "every value must lie in"),
        (lambda r: r.clamp(0.001, 0.999) - r + r.detach(), "the gradient must be positive"),
        (lambda r: r + (r.clamp(0.001, 0.999) - r), "at 0 and 1 the gradient is 0"),
        (lambda r: r.clamp(0.001, 0.999), "at 0 and 1 the gradient is 0"),
        (overwrite, "at 0 and 1 the gradient is 0"),
        (lambda r: r.detach().clamp(0.001, 0.999), "no grad_fn"),
        (lambda r: 0.1 + 0.8 * r, "no value may move by more"),
        (lambda r: (0.001 + 0.998 * r).sum(), "a tensor of shape (6,), got shape ()"),
        (lambda r: (r.logit().nan_to_num()).sigmoid() * 0 + 0.001 + 0.998 * r, "is not finite"),
        (lambda r: r * 0 + r.detach().clamp(0.001, 0.999), "no gradient arrives"),
    ],
)
def test_kept_inside(capsys, answer, says):
    assert says in printed(capsys, check_kept_inside, answer)


def planted():
    x = torch.ones(3, requires_grad=True)
    return x.sum() + (x > 0).float().sum() + x.floor().sum()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"cut": "Tensor.gt", "zeroed": "Tensor.floor"}, "correct."),
        ({"cut": "Tensor.gt"}, "a fault of the kind 'zeroed' as well"),
        ({"cut": "Tensor.sum", "zeroed": "Tensor.floor"}, "cut: not 'Tensor.sum'"),
        (
            {"cut": "Tensor.gt", "zeroed": "Tensor.floor", "not finite": "Tensor.log"},
            "there is no fault of the kind 'not finite'",
        ),
        (["Tensor.gt"], "expected a dict, kind -> operation, got list"),
        ({"cut": "gt", "zeroed": "Tensor.floor"}, "cut: 'gt' is the one: give its full name"),
        ({"cut": "Tensor.gt", "zeroed": "FloorBackward0"}, "'FloorBackward0' is the one"),
        ({"cut": "Tensor.gt", "zeroed": "torch.floor()"}, "'torch.floor()' is the one"),
        ({"cut": "Tensor.floor"}, "cut: not 'Tensor.floor': that is the fault of the kind"),
        ({"cut": ("Tensor.gt", 7)}, "a string, got tuple"),
        ({"zeroed": "Tensor.floor"}, "of the kind 'cut' as well: the trace names it"),
    ],
)
def test_planted_faults(capsys, answer, says):
    assert says in printed(capsys, check_planted_faults, lambda: answer, planted)
    assert "not answered yet" in printed(capsys, check_planted_faults, not_answered, planted)


def test_the_trace_may_be_asked_for_the_planted_faults(capsys):
    with trace_gradients() as trace:
        planted().backward()
    found = {finding.kind: finding.op for finding in trace.findings}
    assert "correct." in printed(capsys, check_planted_faults, lambda: found, planted)
