"""Checks of notebook 01."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, ones

from saetools.frequency import activation_frequency
from saetools.penalties import bernoulli_kl, frequency_penalty
from saetools.training.models import Output
from saetools.tutorial.exercises.feedback import exercise


@exercise(1)
def check_reaches(answer: Callable[[Tensor, Iterable[Tensor]], bool]) -> str | None:
    """Notebook 01, exercise 1: does a loss term send any gradient to any of the parameters?"""
    used, unused, other = (ones(3, requires_grad=True) for _ in range(3))
    cases = (
        ("a term that uses every parameter", (used * unused).sum(), True),
        ("a term without a grad_fn", (used > 0).sum().float(), False),
        ("a term that uses only some of the parameters", (2 * used).sum(), True),
        ("a term with a path on which nothing but zeros arrives", (0 * used).sum(), True),
        ("a term that has a graph, but none that leads to these parameters", other.sum(), False),
    )
    for what, term, expected in cases:
        try:
            got = bool(answer(term, [used, unused]))
        except NotImplementedError:
            raise
        except RuntimeError as error:
            return f"{what} makes it raise: {str(error).splitlines()[0]}"
        if used.grad is not None or unused.grad is not None:
            return "it writes to .grad, which the next step would use: take autograd.grad."
        if got is not expected:
            return f"{what}: expected {expected}, got {got}."
        if expected:
            try:
                term.backward()
            except RuntimeError:
                return "the term cannot be trained on afterwards: keep its graph."
            used.grad = unused.grad = None
    return None


Suspects = Mapping[str, Callable[[Output], Tensor]]

VERDICTS = {"A": "weak", "B": "no effect", "C": "strong", "D": "no effect"}
WRONG = {  # (what it is, what was said of it)
    (
        "weak",
        "no effect",
    ): "at a weight of 1 some bits of the gradient differ, and at a billion "
    "all of it. Compare with torch.equal, not with allclose, and try a large weight.",
    ("weak", "strong"): "with a weight of 1 it moves the gradient by less than 1 %.",
    ("no effect", "weak"): "the gradient is the same to the last bit at a weight of a billion, "
    "where a weak one would show. Compare with torch.equal.",
    ("no effect", "strong"): "it changes the value of the loss, and that proves nothing: compare "
    "the gradients of the weights.",
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
    for name, verdict in VERDICTS.items():
        if name not in got:
            return f"no verdict yet on {name}."
        if got[name] not in VERDICTS.values():
            return f"{name}: a verdict is 'no effect', 'weak' or 'strong', got {got[name]!r}."
        if got[name] != verdict:
            return f"{name} is not {got[name]!r}: {WRONG[verdict, got[name]]}"
    return None
