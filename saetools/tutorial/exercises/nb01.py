"""Checks of notebook 01."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from saetools.tutorial.exercises.feedback import exercise, is_close, known_mistake, wrong_shape


@exercise(1)
def check_row_frequency(answer: Callable[[Tensor], Tensor]) -> str | None:
    """Notebook 01, exercise 1: the share of the rows of `encoded` on which each unit is active."""
    encoded = torch.tensor([[0.5, 0.0, 2.0], [0.1, 0.0, 0.0]] * 4 + [[3.0, 0.0, 0.0]])  # (9, 3)
    got, right = answer(encoded.clone()), torch.tensor([1.0, 0.0, 4 / 9])
    if isinstance(got, Tensor) and got.shape == (9,):
        return "that is one number per row: average over the batch (dim 0), not over the units."
    if mistake := wrong_shape(got, (3,), "one number per unit"):
        return mistake
    if is_close(got, right):
        return None
    known = {
        "those are counts: divide by the number of rows that are there.": right * 9,
        "a latent behind a ReLU is always >= 0: ask whether it is > 0.": torch.ones(3),
        "that is the mean activation: count how often it is > 0.": encoded.mean(0),
    }
    if mistake := known_mistake(got, known):
        return mistake
    ratio = (got / right)[[0, 2]]
    if ratio[0] > 0 and is_close(ratio[0], ratio[1]):
        rows = f"{9 / ratio[0]:.4g} where the batch has 9"
        return f"the counts are right, but divided by {rows}: take the number from the tensor."
    return f"expected {right.tolist()}, got {got.tolist()}."


@exercise(2)
def check_reaches(answer: Callable[[Tensor, Iterable[Tensor]], bool]) -> str | None:
    """Notebook 01, exercise 2: does a loss term send any gradient to any of the parameters?"""
    used, unused, other = (torch.ones(3, requires_grad=True) for _ in range(3))
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
