"""Checks of notebook 01."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, ones

from saetools.frequency import activation_frequency
from saetools.penalties import bernoulli_kl, frequency_penalty
from saetools.training.models import Output
from saetools.tutorial.exercises.feedback import exercise


@exercise(1)
def check_reaches(answer: Callable[[Tensor, Iterable[Tensor]], Any]) -> str | None:
    """Notebook 01, exercise 1: does a loss term send any gradient to any of the parameters?"""
    one, two, other = (ones(3, requires_grad=True) for _ in range(3))
    cases = (
        ("a term that uses every parameter", (one * two).sum(), True),
        ("a term without a grad_fn", (one > 0).sum().float(), False),
        ("a term that uses only some of the parameters", (2 * one).sum(), True),
        ("a term that uses only the last of the parameters", (2 * two).sum(), True),
        ("a term with a path on which nothing but zeros arrives", (0 * one).sum(), True),
        ("a term that has a graph, but none that leads to these parameters", other.sum(), False),
    )
    for what, term, expected in cases:
        if mistake := _wrong_reach(answer, term, [one, two], expected):
            return mistake if mistake.startswith("it ") else f"{what}{mistake}"
    generator = (parameter for parameter in (one, two))
    if mistake := _wrong_reach(answer, (one * two).sum(), [one, two], True, given=generator):
        return f"a generator of parameters, such as model.parameters(){mistake}"
    return None


def _wrong_reach(
    answer: Callable[[Tensor, Iterable[Tensor]], Any],
    term: Tensor,
    parameters: list[Tensor],
    expected: bool,
    given: Iterable[Tensor] | None = None,
) -> str | None:
    for parameter in parameters:
        parameter.grad = ones(3)  # of an earlier term
    try:
        got = answer(term, parameters if given is None else given)
    except NotImplementedError:
        raise
    except (AttributeError, RuntimeError, TypeError) as error:
        return f" makes it raise: {str(error).splitlines()[0]}"
    if any(p.grad is None or not p.grad.equal(ones(3)) for p in parameters):
        return "it writes to .grad, or clears it, and the next step needs it: take autograd.grad."
    if got is None or isinstance(got, Sequence):
        what = "nothing" if got is None else type(got).__name__
        return f"it returns {what}: return True or False."
    if bool(got) is not expected:
        return f": expected {expected}, got {bool(got)}."
    try:
        if expected:
            term.backward()
    except RuntimeError:
        return "it leaves a term that cannot be trained on: keep its graph."
    return None


Suspects = Mapping[str, Callable[[Output], Tensor]]

VERDICTS = {"A": "weak", "B": "no effect", "C": "strong", "D": "no effect"}
WRONG = {  # (what it is, what was said of it)
    (
        "weak",
        "no effect",
    ): "at a weight of 1 some bits of the gradient differ, and at a billion "
    "all of it. Compare with torch.equal, not with allclose, and try a large weight.",
    (
        "weak",
        "strong",
    ): "with a weight of 1 it moves the gradient by less than 1 %: that is "
    "the norm of the difference, over the norm of the whole gradient.",
    ("no effect", "weak"): "the gradient is the same to the last bit at a weight of a billion, "
    "where a weak one would show. Compare with torch.equal.",
    ("no effect", "strong"): "it changes the value of the loss, and that proves nothing: compare "
    "the gradients of the weights, bit for bit. A grad_fn proves nothing either.",
    ("strong", "weak"): "with a weight of 1 it moves the gradient by far more than 1 %.",
    ("strong", "no effect"): "its gradient differs at a weight of 1 already. Was the penalty in "
    "the loss when you called backward?",
}


def suspects() -> Suspects:
    """Four penalties, to be told apart by experiment and not by reading them here."""
    return {
        "A": lambda output: 1e-12 * frequency_penalty(output.pre_activations, rho=0.2),
        "B": lambda output: _kl(activation_frequency(output.pre_activations)),
        "C": lambda output: frequency_penalty(output.pre_activations, rho=0.2),
        "D": lambda output: _kl(output.latents.sign().mean(-2)),
    }


def _kl(rho_hat: Tensor) -> Tensor:
    return bernoulli_kl(rho_hat.clamp(0.001, 0.999), rho=0.2).sum()


@exercise(2)
def check_verdicts(answer: Callable[[Suspects], Any]) -> str | None:
    """Notebook 01, exercise 2: which of four penalties are weak, strong, or without effect."""
    got = answer(suspects())
    if not isinstance(got, Mapping):
        return f"expected a dict, penalty -> verdict, got {type(got).__name__}."
    if all(got.get(name) == "strong" for name in VERDICTS):
        return (
            "not all four are strong. Take the same network and the same batch with and without "
            "the penalty, and a .grad that is empty before each backward."
        )
    for name, verdict in VERDICTS.items():
        if name not in got:
            return f"no verdict yet on {name}."
        if got[name] not in VERDICTS.values():
            return f"{name}: a verdict is 'no effect', 'weak' or 'strong', got {got[name]!r}."
        if got[name] != verdict:
            return f"{name} is not {got[name]!r}: {WRONG[verdict, got[name]]}"
    return None
