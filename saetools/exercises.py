"""The checks behind the notebooks' exercises. Each says which mistake an answer makes.

A check prints its verdict. An answer that is not written yet is no error, so that a notebook
runs from top to bottom before its reader has answered.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor


def _check(exercise: str, find_mistake: Callable[[], str | None]) -> None:
    try:
        verdict = find_mistake() or "correct."
    except NotImplementedError:
        verdict = "not answered yet."
    print(f"{exercise}: {verdict}")


def check_row_frequency(answer: Callable[[Tensor], Tensor]) -> None:
    """Notebook 01, exercise 1: the share of the rows of `encoded` on which each unit is active."""

    def find_mistake() -> str | None:
        encoded = torch.tensor([[0.5, 0.0, 2.0], [0.1, 0.0, 0.0]] * 4 + [[3.0, 0.0, 0.0]])  # (9, 3)
        expected = torch.tensor([1.0, 0.0, 4 / 9])
        try:
            got = answer(encoded.clone())
        except RuntimeError as error:
            if "mean" not in str(error):  # an exercise that is not answered ends here, too
                raise
            return "a comparison gives booleans, which have no mean: turn them into floats first."
        if not isinstance(got, Tensor):
            return f"expected a tensor, got {type(got).__name__}."
        if got.shape == (9,):
            return "that is one number a row: average over the batch (dim 0), not over the units."
        if got.shape != (3,):
            return f"expected one number a unit, shape (3,), got shape {tuple(got.shape)}."
        got, right = got.detach().double(), expected.double()
        if torch.allclose(got, right):
            return None
        if torch.allclose(got, right * 9):
            return "those are counts: divide by the number of rows that are there."
        if torch.allclose(got, torch.ones(3).double()):
            return "a latent behind a ReLU is always >= 0: ask whether it is > 0."
        if torch.allclose(got, encoded.mean(0).double()):
            return "that is the mean activation: count how often it is > 0, not how large it is."
        ratio = (got / right)[[0, 2]]
        if ratio[0] > 0 and torch.allclose(ratio[0], ratio[1]):
            return (
                f"the counts are right, but divided by {9 / ratio[0]:.4g} where the batch has 9 "
                "rows: take the number of rows from the tensor."
            )
        return f"expected {right.tolist()}, got {got.tolist()}."

    _check("Exercise 1", find_mistake)


def check_reaches(answer: Callable[[Tensor, Iterable[Tensor]], bool]) -> None:
    """Notebook 01, exercise 2: does a loss term send any gradient to any of the parameters?"""

    def find_mistake() -> str | None:
        used, unused = (torch.ones(3, requires_grad=True) for _ in range(2))
        cases = [
            ("a term that uses every parameter", (used * unused).sum(), True),
            ("a term without a grad_fn", (used > 0).sum().float(), False),
            ("a term that uses only some of the parameters", (2 * used).sum(), True),
            (
                "a term that has a graph, but none that leads to these parameters",
                torch.ones(3, requires_grad=True).sum(),
                False,
            ),
        ]
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

    _check("Exercise 2", find_mistake)


def check_gradient_verdicts(
    answer: Callable[[], Mapping[str, str]], candidates: Mapping[str, Callable[[Tensor], Tensor]]
) -> None:
    """Notebook 02, exercise 1: "none", "zero" or "some" for what each candidate sends back."""

    def truth(candidate: Callable[[Tensor], Tensor]) -> str:
        pre = torch.linspace(-2, 2, 24).reshape(8, 3).requires_grad_()
        rho_hat = candidate(pre)
        if not rho_hat.requires_grad:
            return "none"
        (gradient,) = torch.autograd.grad(rho_hat.sum(), pre, allow_unused=True)
        if gradient is None:
            return "none"
        return "some" if gradient.any() else "zero"

    def find_mistake() -> str | None:
        got = answer()
        if not isinstance(got, Mapping):
            return f"expected a dict of verdicts, got {type(got).__name__}."
        if missing := sorted(set(candidates) - set(got)):
            return f"no verdict yet on {', '.join(missing)}."
        for name, candidate in candidates.items():
            if got[name] not in ("none", "zero", "some"):
                return f"{name}: the verdict is 'none', 'zero' or 'some', got {got[name]!r}."
            if got[name] != truth(candidate):
                return (
                    f"{name}: not {got[name]!r}. Print its grad_fn, then ask autograd.grad for "
                    "the gradient at the pre-activations, with allow_unused=True; if that "
                    "raises, there is no path."
                )
        return None

    _check("Exercise 1", find_mistake)


def check_kept_inside(answer: Callable[[Tensor], Tensor]) -> None:
    """Notebook 02, exercise 2: rho_hat moved into [0.001, 0.999] without losing its gradient."""

    def find_mistake() -> str | None:
        rho_hat = torch.tensor([0.0, 0.0005, 0.2, 0.7, 0.9995, 1.0], dtype=torch.float64)
        leaf = rho_hat.clone().requires_grad_()
        got = answer(leaf * 1)
        if not isinstance(got, Tensor) or got.shape != rho_hat.shape:
            return "expected a tensor of the shape of rho_hat."
        values = got.detach()
        if not ((values > 0.0009) & (values < 0.9991)).all():
            return f"every value must lie in [0.001, 0.999], got {values.tolist()}."
        if (values - rho_hat).abs().max() > 0.0015:
            return f"no value may move by more than about 0.001, got {values.tolist()}."
        if not got.requires_grad:
            return "the result has no grad_fn: the whole gradient is cut."
        (gradient,) = torch.autograd.grad(got.sum(), leaf, allow_unused=True)
        if gradient is None or not gradient.any():
            return "no gradient arrives at rho_hat at all."
        if not torch.isfinite(gradient).all():
            return f"the gradient is not finite: {gradient.tolist()}."
        if not gradient[[0, -1]].all():
            return (
                "at 0 and 1 the gradient is 0: a unit that is dead, or always on, would stay so. "
                "Overwriting, torch.where and torch.clamp all do this."
            )
        if not gradient.all() or (gradient < 0).any():
            return f"the gradient must be positive everywhere, got {gradient.tolist()}."
        return None

    _check("Exercise 2", find_mistake)


def check_planted_faults(
    answer: Callable[[], Mapping[str, str]], planted: Callable[[], Tensor]
) -> None:
    """Notebook 02, exercise 3: the operation behind each kind of fault in the loss `planted()`."""

    def find_mistake() -> str | None:
        from saetools.gradients import trace_gradients  # only this check needs the tracer

        got = answer()
        if not isinstance(got, Mapping):
            return f"expected a dict, kind -> operation, got {type(got).__name__}."
        with trace_gradients() as trace:
            planted().backward()
        for finding in trace.findings:
            if finding.kind not in got:
                return f"there is a fault of the kind {finding.kind!r} as well."
            if got[finding.kind] != finding.op:
                return (
                    f"{finding.kind}: not {got[finding.kind]!r}. Trace it with the backward pass "
                    "inside the block, and give the full name that is printed after 'at'."
                )
        if surplus := sorted(set(got) - {finding.kind for finding in trace.findings}):
            return f"there is no fault of the kind {surplus[0]!r}."
        return None

    _check("Exercise 3", find_mistake)
