"""Tensors and a description in one file, written whole or not at all, and never unpickled.

The format is safetensors: a JSON header, then plain numbers. Nothing in it can be executed.
"""

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

FilePath = str | os.PathLike[str]

_FORMAT = 1  # to be raised when an older reader would misunderstand a file
_KEY = "saetools"  # of the description, in the file's metadata
_PARTIAL = ".partial"


def write(
    path: FilePath, kind: str, tensors: Mapping[str, Tensor], description: Mapping[str, Any]
) -> None:
    """Write `tensors` and a `description` that JSON can hold; on failure the old file stays."""
    target = _path(path).resolve()  # a symbolic link is followed, not replaced
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path must lie in a folder that exists, got {target}")
    about = json.dumps({"format": _FORMAT, "kind": kind, **description})
    try:
        data = _safetensors().torch.save(_separate(tensors), {_KEY: about})
    except KeyError as error:  # safetensors looks a dtype up
        raise TypeError(f"a safetensors file cannot hold {error}") from None
    # In the same folder, since a file is replaced in one go only within a file system.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def read(path: FilePath, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the description of a file that `write` has written."""
    safetensors = _safetensors()
    path = _path(path)
    with path.open("rb"):
        pass  # for the system's own words on a missing file or a folder
    try:
        # Not on the default device, on which some versions would put them without their values.
        with torch.device("cpu"), safetensors.safe_open(path, framework="pt") as file:
            about = _description(path, kind, file.metadata())
            # Copies: what the file is read through would change with it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        reason = " ".join(str(error).split())  # which may quote lines of the file
        raise ValueError(f"{path} is no complete safetensors file: {reason}") from None
    return tensors, about


def remove_partial(path: FilePath) -> None:
    """Remove what a process left that was killed while it wrote the file at `path`."""
    target = _path(path).resolve()
    for left in target.parent.glob("*" + _PARTIAL):
        if left.name.startswith(f".{target.name}."):
            left.unlink(missing_ok=True)


def _description(path: Path, kind: str, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        about = json.loads((metadata or {})[_KEY])
        version, found = about["format"], about["kind"]
        if not isinstance(version, int) or version < 1:
            raise ValueError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(
            f"{path} was not written by saetools: it lacks the description that saetools adds"
        ) from None
    if version > _FORMAT:
        raise ValueError(
            f"{path} was written by a newer saetools, in format {version}; this one reads formats "
            f"up to {_FORMAT}: update saetools"
        )
    if found != kind:
        raise ValueError(f"{path} must hold a {kind}, got {found!r}")
    return dict(about)


def _path(path: object) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a pathlib.Path, got {type(path).__name__}")
    return Path(path)


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            'saving and loading need safetensors: pip install "saetools[saving]"'
        ) from error
    return safetensors


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU: the format knows neither strides nor shared memory."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where a system lets folders be opened."""
    if hasattr(os, "O_DIRECTORY"):
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def state_tensors(model: Any) -> dict[str, Tensor]:
    """Temporary."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"model must keep tensors alone, got {type(value).__name__} in {name}")
    return dict(state)


def check_fits(path: FilePath, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Temporary."""
    problems = []
    for name in sorted(set(tensors) | set(state)):
        got, expected = (
            f"{tuple(held[name].shape)} of {held[name].dtype}" if name in held else "nothing"
            for held in (tensors, state)
        )
        if got != expected:
            problems.append(f"{name!r} is {got} in the file, {expected} in the model")
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ValueError(f"{path} does not fit the model: {problems[0]}{more}")
