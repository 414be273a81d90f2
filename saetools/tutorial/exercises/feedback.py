"""What the checks share: naming a known mistake, and printing it."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")
ERRORS = {  # what PyTorch says of a common slip, and what we say
    "mean(): could not infer": "booleans have no mean: turn them into floats first.",
    "Boolean value of Tensor": "a tensor of several entries is neither True nor False: compare "
    "entry by entry, and count with .sum().",
}


def exercise(number: int) -> Callable[[Callable[P, str | None]], Callable[P, None]]:
    """Make a check, which prints, of a function that returns the mistake in an answer, or None."""

    def decorate(find_mistake: Callable[P, str | None]) -> Callable[P, None]:
        @wraps(find_mistake)
        def check(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                feedback = find_mistake(*args, **kwargs) or "correct."
            except NotImplementedError:
                feedback = "not answered yet."
            except RuntimeError as error:
                known = (says for start, says in ERRORS.items() if start in str(error))
                if not (feedback := next(known, "")):
                    raise
            print(f"Exercise {number}: {feedback}")

        return check

    return decorate


def wrong_shape(got: object, shape: tuple[int, ...], what: str) -> str | None:
    """The mistake that `got` is no tensor of this shape."""
    if isinstance(got, Tensor) and got.shape == shape:
        return None
    found = f"shape {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
    return f"expected {what}, a tensor of shape {shape}, got {found}."


def one_number(value: Any) -> float | None:
    """`value` as a float; None if it is no single number."""
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def no_number(value: Any) -> str:
    """What stands in place of one number."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"shape {tuple(shape)}"


def known_mistake(
    got: Tensor | float,
    mistakes: Mapping[str, Tensor | float],
    *,
    rtol: float = 1e-3,
    atol: float = 1e-6,
) -> str | None:
    """The first of the mistakes, each with the value that it leads to, that leads to `got`."""
    close = (why for why, wrong in mistakes.items() if is_close(got, wrong, rtol=rtol, atol=atol))
    return next(close, None)


def is_close(
    got: Tensor | float, expected: Tensor | float, *, rtol: float = 1e-5, atol: float = 1e-8
) -> bool:
    """`torch.allclose`, for numbers and for tensors of any two dtypes."""
    got, expected = (torch.as_tensor(value).detach().double() for value in (got, expected))
    return torch.allclose(got, expected, rtol=rtol, atol=atol)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    """That of the sum of `value`, 0 where no path leads to `at`."""
    (found,) = torch.autograd.grad(value.sum(), at, retain_graph=True, allow_unused=True)
    return torch.zeros_like(at) if found is None else found
