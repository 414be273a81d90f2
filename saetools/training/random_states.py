"""The global random generators, for training that goes on in another process."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


class GlobalRandomStates:
    """The states of Python's, NumPy's and torch's generators, and who has drawn from them.

    A model with dropout draws from them, and must go on where it stopped. A generator that
    nobody draws from is the caller's, and is given back as it was found.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
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
        self._set(self._start)

    def give_back(self) -> None:
        """Set those that were not drawn from to the state in which they were found."""
        drawn = self.state_dict()["drawn"]
        self._set({name: state for name, state in self._found.items() if name not in drawn})

    def _now(self) -> dict[str, Any]:
        legacy: Any = np.random.get_state()  # noqa: NPY002
        states = {
            "Python": random.getstate(),
            "NumPy": (legacy[0], legacy[1].tolist(), *legacy[2:]),
        }
        if self._device.type not in ("cpu", "meta"):
            module, where = self._accelerator()
            states["accelerator"] = module.get_rng_state(**where)
        return {**states, "Python": random.getstate(), "torch": torch.get_rng_state()}

    def _set(self, states: dict[str, Any]) -> None:
        setters = {"Python": random.setstate, "NumPy": np.random.set_state}
        for name, state in states.items():
            if name == "accelerator":
                module, where = self._accelerator()
                module.set_rng_state(state, **where)
            else:
                setters.get(name, torch.set_rng_state)(state)

    def _accelerator(self) -> tuple[Any, dict[str, Any]]:
        module = getattr(torch, self._device.type)
        return module, {} if self._device.type == "mps" else {"device": self._device}


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)
