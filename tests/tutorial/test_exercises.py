"""Each check accepts a right answer, and names the mistake of each wrong one.

The solutions printed in the notebooks are run in test_notebooks.py.
"""

import pytest
import torch

from saetools import PostedAutoencoder, chicago_context
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


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (right, "correct."),
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


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (by_experiment, "correct."),
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
        (TRUTH | {"sign": "some"}, "sign: not 'some'"),
        (TRUTH | {"rebuilt": "zero"}, "rebuilt: not 'zero'"),
        (None, "expected a dict, candidate -> kind, got NoneType"),
        (TRUTH | {"count": "nothing"}, "the answer is 'none', 'zero' or 'some', got 'nothing'"),
    ],
)
def test_gradient_kinds(capsys, answer, says):
    assert says in printed(capsys, check_gradient_kinds, lambda: answer, CANDIDATES)


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
        (lambda r: r, "every value must lie in"),
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
    ],
)
def test_planted_faults(capsys, answer, says):
    assert says in printed(capsys, check_planted_faults, lambda: answer, planted)
    assert "not answered yet" in printed(capsys, check_planted_faults, not_answered, planted)
