"""Checks of what train_ensemble is given for each member."""

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor

from saetools.data.checks import check_number


def one_a_member(name: str, values: Any, count: int) -> list[Any]:
    """`values` as a list with one value a member."""
    values = values.tolist() if isinstance(values, Tensor) else values
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must hold one value a member, {count}, got {values!r}")
    members = list(values)
    if len(members) != count:
        raise ValueError(f"{name} must hold one value a member, {count}, got {len(members)}")
    return members


_COLUMNS = ("member", "seed", "lr", "error", "penalty", "not_finite_at")


def check_settings(settings: Any, count: int) -> list[Mapping[str, Any]]:
    """`settings` as a list of mappings whose names are not those of the table's columns."""
    members = one_a_member("settings", settings, count)
    for setting in members:
        if not isinstance(setting, Mapping):
            raise TypeError(f"settings must hold mappings, got {setting!r}")
        if taken := sorted(set(setting) & set(_COLUMNS)):
            raise ValueError(f"settings must not be called {', '.join(taken)}, as columns are")
    return members


def check_rates(lr: Any, count: int) -> list[float]:
    """`lr`, one number or one a member, as a list of learning rates."""
    lr = lr.tolist() if isinstance(lr, Tensor) else lr
    rates = [lr] * count if isinstance(lr, Real) else one_a_member("lr", lr, count)
    for rate in rates:
        # Adam computes with the largest rate of all: it must not overflow for the others.
        if check_number("lr", rate, above=0) > _LARGEST_RATE:
            raise ValueError(f"lr must be at most {_LARGEST_RATE:g}, got {rate}")
    return [float(rate) for rate in rates]


_LARGEST_RATE = 1e6
