"""Printing what a check found."""

from collections.abc import Callable


def print_verdict(exercise: str, find_mistake: Callable[[], str | None]) -> None:
    """Print the mistake that was found in the answer to `exercise`, or that it is correct."""
    try:
        verdict = find_mistake() or "correct."
    except NotImplementedError:
        verdict = "not answered yet."
    print(f"{exercise}: {verdict}")
