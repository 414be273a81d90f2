"""Training that can be killed at any step, and goes on from its last checkpoint to the same bits.

A checkpoint is a safetensors file (see _files.py): tensors, and a description of what they are.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from saetools.data.checks import check_count
from saetools.training._old_files import check_fits, read, remove_partial, state_tensors, write
from saetools.training.files import FilePath
from saetools.training.random_states import GlobalRandomStates


def checkpointing(
    path: FilePath | None,
    *,
    every: int,
    steps: int,
    x: Tensor | Iterable[Tensor],
    settings: Mapping[str, Any],
    parts: Mapping[str, Any],
    curves: Mapping[str, list[Tensor]],
    observations: list[Any],
) -> tuple[int, Callable[[int], None]]:
    """Go on from the checkpoint at `path`, if there is one, and keep new ones there.

    Args:
        path: of the file; None for no checkpoints.
        every: steps between two checkpoints.
        steps: of the whole training.
        x: the training rows; the file knows them by their shape and a digest. Batches from an
            iterable cannot be found again: they have no checkpoints.
        settings: what must be as it was: numbers, text, lists, and functions, by their names.
        parts: "model", and others that have a state_dict and a load_state_dict, restored in this
            order; what has none is left out.
        curves: lists of tensors of one shape, one tensor a step; restored in place.
        observations: of what a checkpoint can hold; restored in place.

    Returns:
        The steps that are done, and what keeps a checkpoint when called with the steps done: at
        the start, after every `every` steps and at the end. Also kept are the states of the
        global random generators; those that training does not draw from are given back.

    Raises:
        ImportError, OSError: as `saving.load` does.
        TypeError: if there is something that a checkpoint cannot hold.
        ValueError: if the file is damaged, or is no checkpoint of this training, or x is not
            one tensor.
    """
    check_count("checkpoint_every", every)
    if path is None:
        return 0, lambda _: None
    if not isinstance(x, Tensor):
        raise ValueError("checkpoint needs x as a tensor, whose rows it can find again")

    settings = {"steps": steps, **settings, **_identity(x)}
    settings = {name: _plain(value) for name, value in settings.items()}
    parts = {name: part for name, part in parts.items() if hasattr(part, "load_state_dict")}
    parts["random"] = random_states = GlobalRandomStates(x.device)
    # What has been stacked of the curves, once and not for each file again.
    chunks: dict[str, list[Tensor]] = {name: [] for name in curves}
    kept_at = None

    remove_partial(path)
    if Path(path).exists():
        kept_at, state = _read(path, settings, parts, x.device)
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
            if isinstance(part, Optimizer):
                _lay_out_like_parameters(part)
        for name, curve in state["curves"].items():
            curves[name].extend(curve)
        observations.extend(state["observations"])

    def write_state(steps_done: int) -> None:
        for name, curve in curves.items():
            if new := curve[sum(map(len, chunks[name])) :]:
                chunks[name].append(torch.stack(new))
        state = {
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "curves": {name: torch.cat(curve) for name, curve in chunks.items() if curve},
            "observations": observations,
        }
        tensors: dict[str, Tensor] = {}
        packed = _pack(state, tensors)
        about = {"settings": settings, "steps_done": steps_done, "state": packed}
        write(path, "checkpoint", tensors, about)

    def keep(steps_done: int) -> None:
        nonlocal kept_at
        if steps_done != kept_at and (steps_done % every == 0 or steps_done == steps):
            write_state(steps_done)
            kept_at = steps_done
        if steps_done == steps:
            random_states.give_back()

    return kept_at or 0, keep


def _read(
    path: FilePath, settings: Mapping[str, Any], parts: Mapping[str, Any], device: torch.device
) -> tuple[int, dict[str, Any]]:
    """The steps done and the state in a file, if all in it fits; nothing is restored yet."""
    tensors, about = read(path, "checkpoint")
    try:
        earlier, steps_done = dict(about["settings"]), int(about["steps_done"])
        state = _unpack(about["state"], tensors, device)
        kept = set(state["parts"])
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged checkpoint: {error!r}") from None
    for name in {**settings, **earlier}:
        was, now = earlier.get(name), settings.get(name)
        if was != now:
            raise ValueError(
                f"{path} is a checkpoint of training with {name} = {was!r}, got {now!r}: go on "
                "as it was begun, or remove the file to begin anew"
            )
    if kept != set(parts):
        held, wanted = (", ".join(sorted(names)) for names in (kept, parts))
        raise ValueError(f"{path} must hold the state of {wanted}, got {held}")
    check_fits(path, state["parts"]["model"], state_tensors(parts["model"]))
    return steps_done, state


def _plain(value: Any) -> Any:
    """A setting as JSON gives it back; a function as its name."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _identity(x: Tensor) -> dict[str, Any]:
    digest = hashlib.sha256(x.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return {
        "shape of x": x.shape,
        "dtype of x": str(x.dtype),
        "device of x": x.device.type,
        "digest of x": digest.hexdigest()[:16],
    }


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` for JSON; its tensors are put into `tensors`, under a number each."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name, "on CPU": value.device.type == "cpu"}
    if isinstance(value, dict):
        return {"dict": [[_pack(key, tensors), _pack(value[key], tensors)] for key in value]}
    if type(value) in (list, tuple):  # no named tuple, which would come back without its names
        return {type(value).__name__: [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"a checkpoint cannot hold a {type(value).__name__}: what observe returns, and the state "
        "of a penalty or a scheduler, must be tensors, numbers, text, or lists, tuples and dicts "
        "of these"
    )


def _unpack(packed: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """What `_pack` was given; tensors that were on an accelerator are put on `device`."""
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        tensor = tensors[packed["tensor"]]
        return tensor if packed["on CPU"] else tensor.to(device)
    [(kind, items)] = packed.items()
    if kind == "dict":
        return {
            _unpack(key, tensors, device): _unpack(value, tensors, device) for key, value in items
        }
    return {"list": list, "tuple": tuple}[kind](_unpack(item, tensors, device) for item in items)


def _lay_out_like_parameters(optimizer: Optimizer) -> None:
    """Give each moment the strides of its parameter, which a file does not keep.

    Fused Adam walks through both in the order of memory, and would pair the wrong elements.
    """
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim > 1:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
