"""The global random generators: dropout goes on where it stopped, the others are given back."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor


class GlobalRandomStates:
    """The states of Python's, NumPy's and torch's generators, and which were drawn from."""

    def __init__(self, device: torch.device) -> None:
        self._generators: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
            "Python": (random.getstate, random.setstate),
            "NumPy": (_numpy_state, np.random.set_state),
            "torch": (torch.get_rng_state, torch.set_rng_state),
        }
        if device.type not in ("cpu", "meta"):
            module, where = getattr(torch, device.type), {"device": device}
            both = (module.get_rng_state, module.set_rng_state)
            read, write = both if device.type == "mps" else (partial(f, **where) for f in both)
            self._generators["accelerator"] = (read, write)
        self._found = self._start = self._now()
        self._drawn: set[str] = set()  # in earlier processes, or in this one before a state_dict

    def state_dict(self) -> dict[str, Any]:
        """The states, and the names of the generators that were drawn from since the start."""
        now = self._now()
        for name, state in now.items():
            start = self._start[name]
            if not (torch.equal(state, start) if isinstance(state, Tensor) else state == start):
                self._drawn.add(name)
        return {"states": now, "drawn": sorted(self._drawn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the generators to what state_dict has returned."""
        self._start, self._drawn = state["states"], set(state["drawn"])
        self._set(self._start)

    def give_back(self) -> None:
        """Set those that were not drawn from to the state in which they were found."""
        drawn = self.state_dict()["drawn"]
        self._set({name: state for name, state in self._found.items() if name not in drawn})

    def _now(self) -> dict[str, Any]:
        return {name: read() for name, (read, _) in self._generators.items()}

    def _set(self, states: dict[str, Any]) -> None:
        for name, state in states.items():
            self._generators[name][1](state)


def _numpy_state() -> tuple[Any, ...]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return (state[0], state[1].tolist(), *state[2:])
