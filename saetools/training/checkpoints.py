"""Training that can be killed at any step, and goes on from its last checkpoint to the same bits.

A file of `torch.save` holds tensors, numbers, text, lists and dicts alone, and nothing in it is
executed: it is read with weights_only=True.
"""

import io
import os
import pickle
import random
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from saetools.training.history import History as History  # handed on
from saetools.training.identity import Facts

FilePath = str | os.PathLike[str]
_FORMAT = 2  # to be raised when an older reader would misunderstand a file
_ENTRIES = {"format", "identity", "done", "curves", "observations", "parts", "random"}


class Checkpoint(NamedTuple):
    """A file, and what the training that it belongs to is known by."""

    path: FilePath
    identity: Facts


class Keeper:
    """The history of a training, and of `parts` each that has a state, restored in this order.

    Global random generators that training does not draw from are given back in the end.
    """

    def __init__(
        self, file: Checkpoint | None, every: int, steps: int, parts: Mapping[str, Any]
    ) -> None:
        self.file, self.every, self.steps = file, every, steps
        self.parts = {n: part for n, part in parts.items() if hasattr(part, "load_state_dict")}
        # One tensor of all steps so far, and one each for those since.
        self.errors: list[Tensor] = []
        self.penalties: list[Tensor] = []
        self.observations: list[tuple[int, Any]] = []
        self.kept_at: int | None = None
        self.random = GlobalRandomStates(next(parts["model"].parameters()).device)
        if file is not None:
            remove_partial(file.path)
            if checked_path(file.path).exists():
                self._restore(file)

    def keep(self, done: int) -> None:
        """Write a file, if one is due after so many steps."""
        if self.file is None:
            return
        if done != self.kept_at and (done % self.every == 0 or done == self.steps):
            self._write(self.file, done)
            self.kept_at = done
        if done == self.steps:
            self.random.give_back()

    def history(self) -> History:
        """What has happened so far, on the CPU."""
        self._join()
        error, penalty = (
            curve[0].cpu() if curve else torch.empty(0) for curve in (self.errors, self.penalties)
        )
        return History(error, penalty, list(self.observations))

    def _join(self) -> None:
        """Make each curve one tensor: once, and not anew each time that it is asked for."""
        for curve in (self.errors, self.penalties):
            curve[:] = [torch.cat(curve)] if curve else []

    def _write(self, file: Checkpoint, done: int) -> None:
        self._join()
        state = {
            "format": _FORMAT,
            "identity": file.identity,
            "done": done,
            "curves": [self.errors, self.penalties],
            "observations": self.observations,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "random": self.random.state_dict(),
        }
        data = io.BytesIO()
        torch.save(_plain(state), data)
        write_atomically(file.path, data.getvalue())

    def _restore(self, file: Checkpoint) -> None:
        state = _read(file.path)
        known, earlier = file.identity, state["identity"]
        for name in {**known, **earlier}:
            if (was := earlier.get(name)) != (now := known.get(name)):
                raise ValueError(
                    f"{file.path} is a checkpoint of training with {name} = {was}, got {now}: "
                    "go on as it was begun, or remove the file to begin anew"
                )
        if set(state["parts"]) != set(self.parts):
            raise ValueError(f"{file.path} is a damaged checkpoint: it lacks the state of a part")
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.random.load_state_dict(state["random"])
        self.errors, self.penalties = state["curves"]
        self.observations, self.kept_at = state["observations"], state["done"]


def _read(path: FilePath) -> dict[str, Any]:
    data = io.BytesIO(checked_path(path).read_bytes())
    try:
        with torch.device("cpu"):  # and not on a default device
            state = torch.load(data, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no complete checkpoint: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT or _ENTRIES - set(state):
        remedy = "remove it to begin anew, or use the saetools that wrote it"
        raise ValueError(f"{path} is no checkpoint of this saetools, format {_FORMAT}: {remedy}")
    return state


def _plain(value: Any) -> Any:
    """`value`, if a checkpoint can hold it, with plain dicts in place of ordered ones."""
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):  # no named tuple, which would come back without its names
        return type(value)(_plain(inner) for inner in value)
    raise TypeError(
        f"a checkpoint cannot hold a {type(value).__name__}: what observe returns, the state of a "
        "penalty or a scheduler, must be tensors, numbers, text, lists, tuples or dicts of these"
    )


def write_atomically(path: FilePath, data: bytes) -> None:
    """Put `data` into a file, which appears whole or not at all; until then an older one stays."""
    target = checked_path(path).resolve()  # a symbolic link is followed, not replaced
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path must lie in a folder that exists, got {target}")
    # In the same folder, since a file is replaced in one go only within a file system.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial(path: FilePath) -> None:
    """Remove what a process left that was killed while it wrote the file at `path`."""
    target = checked_path(path).resolve()
    for left in target.parent.glob("*.partial"):
        if left.name.startswith(f".{target.name}."):
            left.unlink(missing_ok=True)


def checked_path(path: object) -> Path:
    """`path` as a Path."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a pathlib.Path, got {type(path).__name__}")
    return Path(path)


class GlobalRandomStates:
    """The global generators' states; those that nobody has drawn from are given back."""

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
