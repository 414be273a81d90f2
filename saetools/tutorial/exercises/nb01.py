"""Checks of notebook 01."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import print_verdict


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

    print_verdict("Exercise 1", find_mistake)


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

    print_verdict("Exercise 2", find_mistake)
