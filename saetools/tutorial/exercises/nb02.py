"""Checks of notebook 02."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import exercise, gradient, wrong_shape

KINDS = {  # (what arrives, what was said of it)
    ("none", "zero"): "zeros need a path to arrive on. Does autograd.grad return a tensor here?",
    ("none", "some"): "nothing arrives where no path leads back to the pre-activations. Look at "
    "what the last operation was given, and not only at requires_grad of the result.",
    ("zero", "none"): "there is a grad_fn, and a path. Look at what arrives on it.",
    ("zero", "some"): "a grad_fn is no proof. Is any entry of what arrives not 0?",
    ("some", "none"): "a path leads back. Look at what arrives on it.",
    ("some", "zero"): "some entries of what arrives are not 0. Ask with inputs of both signs.",
}


@exercise(1)
def check_gradient_kinds(
    answer: Callable[[], Mapping[str, str]], candidates: Mapping[str, Callable[[Tensor], Tensor]]
) -> str | None:
    """Notebook 02, exercise 1: "none", "zero" or "some" for what each candidate sends back."""
    got = answer()
    if not isinstance(got, Mapping):
        return f"expected a dict, candidate -> kind, got {type(got).__name__}."
    if missing := sorted(set(candidates) - set(got)):
        return f"no answer yet on {', '.join(missing)}."
    for name, candidate in candidates.items():
        if got[name] not in ("none", "zero", "some"):
            return f"{name}: the answer is 'none', 'zero' or 'some', got {got[name]!r}."
        if got[name] != (kind := _gradient_kind(candidate)):
            return f"{name}: not {got[name]!r}: {KINDS[kind, got[name]]}"
    return None


def _gradient_kind(candidate: Callable[[Tensor], Tensor]) -> str:
    pre = torch.linspace(-2, 2, 24).reshape(8, 3).requires_grad_()
    rho_hat = candidate(pre)
    if not rho_hat.requires_grad:
        return "none"
    (found,) = torch.autograd.grad(rho_hat.sum(), pre, allow_unused=True)
    if found is None:
        return "none"
    return "some" if found.any() else "zero"


@exercise(2)
def check_kept_inside(answer: Callable[[Tensor], Tensor]) -> str | None:
    """Notebook 02, exercise 2: rho_hat moved into [0.001, 0.999] without losing its gradient."""
    rho_hat = torch.tensor([0.0, 0.0005, 0.2, 0.7, 0.9995, 1.0], dtype=torch.float64)
    leaf = rho_hat.clone().requires_grad_()
    got = answer(leaf * 1)
    if mistake := wrong_shape(got, (6,), "one number per unit"):
        return mistake
    values = got.detach()
    outside, far = (values < 0.0009) | (values > 0.9991), (values - rho_hat).abs() > 0.0015
    if outside.any() or values.isnan().any():
        return f"every value must lie in [0.001, 0.999]: {_moved(rho_hat, values, outside)}"
    if far.any():
        return f"no value may move by more than about 0.001: {_moved(rho_hat, values, far)}"
    if not got.requires_grad:
        return "the result has no grad_fn: the whole gradient is cut."
    pull = gradient(got, leaf)
    if not pull.any():
        return "no gradient arrives at rho_hat at all."
    if not pull.isfinite().all():
        return f"the gradient is not finite: {pull.tolist()}."
    if not pull[[0, -1]].all():
        return (
            "at 0 and 1 the gradient is 0: a unit that is dead, or always on, would stay so. "
            "Overwriting, torch.where and torch.clamp all do this."
        )
    if not (pull > 0).all():
        return f"the gradient must be positive everywhere, got {pull.tolist()}."
    return None


def _moved(before: Tensor, after: Tensor, at: Tensor) -> str:
    place = int(at.double().argmax())
    return f"{before[place]:g} becomes {after[place]:g}."


@exercise(3)
def check_planted_faults(
    answer: Callable[[], Mapping[str, str]], planted: Callable[[], Tensor]
) -> str | None:
    """Notebook 02, exercise 3: the operation behind each kind of fault in the loss `planted()`."""
    from saetools.gradients import trace_gradients  # only this check needs the tracer

    got = answer()
    if not isinstance(got, Mapping):
        return f"expected a dict, kind -> operation, got {type(got).__name__}."
    with trace_gradients() as trace:
        planted().backward()
    kinds = {finding.op: finding.kind for finding in trace.findings}
    for op, kind in kinds.items():
        if kind not in got:
            return (
                f"there is a fault of the kind {kind!r} as well: the trace names it, if the "
                "backward pass is in the block."
            )
        if (given := got[kind]) != op:
            return f"{kind}: {_wrong_operation(given, op, kinds)}"
    if surplus := sorted(set(got) - {finding.kind for finding in trace.findings}):
        return f"there is no fault of the kind {surplus[0]!r}."
    return None


def _wrong_operation(given: object, op: str, kinds: Mapping[str, str]) -> str:
    if not isinstance(given, str):
        return f"give the name of the operation, a string, got {type(given).__name__}."
    if given in kinds:
        return f"not {given!r}: that is the fault of the kind {kinds[given]!r}."
    last = re.sub(r"(\(.*\)|backward\d*)$", "", given.lower()).rpartition(".")[2]
    if last == op.lower().rpartition(".")[2]:
        return f"{given!r} is the one: give its full name, as the trace prints it after 'at'."
    return (
        f"not {given!r}. Trace the loss with its backward pass inside the block, and give the "
        "full name that is printed after 'at'."
    )
