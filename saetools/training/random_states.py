"""The global random generators, for training that goes on in another process."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

_Generator = tuple[Callable[[], Any], Callable[[Any], Any]]  # gets its state, sets it


class GlobalRandomStates:
    """The states of Python's, NumPy's and torch's generators, and who has drawn from them.

    A model with dropout draws from them, and must go on where it stopped. A generator that
    nobody draws from is the caller's, and is given back as it was found.
    """

    def __init__(self, device: torch.device) -> None:
        self._generators = _generators(device)
        self._found = self._start = self._now()
        self._drawn: set[str] = set()  # in earlier processes, or in this one before a state_dict

    def state_dict(self) -> dict[str, Any]:
        """The states, and the names of the generators that were drawn from since the start."""
        now = self._now()
        self._drawn |= {name for name in now if not _same(now[name], self._start[name])}
        return {"states": now, "drawn": sorted(self._drawn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the generators to what state_dict has returned."""
        self._start, self._drawn = state["states"], set(state["drawn"])
        for name, (_, set_state) in self._generators.items():
            set_state(self._start[name])

    def give_back(self) -> None:
        """Set those that were not drawn from to the state in which they were found."""
        for name in set(self._found) - set(self.state_dict()["drawn"]):
            self._generators[name][1](self._found[name])

    def _now(self) -> dict[str, Any]:
        return {name: get_state() for name, (get_state, _) in self._generators.items()}


def _generators(device: torch.device) -> dict[str, _Generator]:
    generators: dict[str, _Generator] = {
        "Python": (random.getstate, random.setstate),
        "NumPy": (_numpy_state, np.random.set_state),
        "torch": (torch.get_rng_state, torch.set_rng_state),
    }
    if device.type not in ("cpu", "meta"):
        module = getattr(torch, device.type)
        where = {} if device.type == "mps" else {"device": device}  # there is one mps device
        generators[device.type] = (
            partial(module.get_rng_state, **where),
            partial(module.set_rng_state, **where),
        )
    return generators


def _numpy_state() -> tuple[Any, ...]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return (state[0], state[1].tolist(), *state[2:])


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)
