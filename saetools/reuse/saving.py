"""Save and load the weights of a model, and what a `SparseAutoencoder` is made of.

Files are safetensors (`pip install "saetools[saving]"`): nothing in them is executed or unpickled.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from saetools.data.checks import check_finite
from saetools.training.files import FilePath, read, write
from saetools.training.models import SparseAutoencoder

AnyModule = TypeVar("AnyModule", bound=nn.Module)
Output = Callable[[Tensor], Tensor]

_OUTPUTS: dict[str, Callable[[], Output]] = {  # what makes the function of each name
    "sigmoid": lambda: torch.sigmoid,
    "relu": lambda: torch.relu,
    "tanh": lambda: torch.tanh,
    "identity": nn.Identity,
}


def save(model: nn.Module, path: FilePath) -> None:
    """Write a model's parameters and persistent buffers to a file.

    The file appears whole or not at all: if writing fails, an older one at `path` stays as it
    was. Weights that layers share are written once for each name. Not kept: which parameters
    learn, training or evaluation mode, hooks, and buffers that are not persistent.

    Args:
        model: any module. Of a `SparseAutoencoder` the sizes and the output function are kept
            too, so that `load` can make it again; others, subclasses included, are filled by
            `load_into`.
        path: of the file; its folder must exist.

    Raises:
        ImportError: if safetensors is not installed.
        OSError: if the file cannot be written.
        TypeError: if the model keeps in its state_dict what is no tensor.
        ValueError: if a parameter holds NaN or infinity, or a buffer NaN; if a SparseAutoencoder
            has layers other than its sizes say, or an output function that has no name here,
            which are torch.sigmoid, torch.relu, torch.tanh and torch.nn.Identity().

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.safetensors")
        ...     save(SparseAutoencoder((20, 8), torch.tanh), path)
        ...     model = load(path)
        >>> model.sizes, model.output.__name__
        ((20, 8), 'tanh')
    """
    state = state_tensors(model)
    _check_values(model, state)
    description: dict[str, object] = {"class": type(model).__name__}
    if type(model) is SparseAutoencoder:
        description |= _architecture(model)
    write(path, "model", state, description)


def load(path: FilePath, *, device: str | torch.device | None = None) -> SparseAutoencoder:
    """The `SparseAutoencoder` that `save` has written, with its dtype.

    Args:
        path: of the file.
        device: where to put it; None for the default device.

    Returns:
        A new model, all of whose parameters learn, in training mode.

    Raises:
        ImportError: if safetensors is not installed.
        OSError: if there is no file at path, or it cannot be read.
        ValueError: if the file is damaged, was written by something else or by a newer saetools,
            holds another model, or a weight is NaN or infinite.

    Example:
        >>> load("no_such_file.safetensors")
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'no_such_file.safetensors'
    """
    tensors, about = read(path, "model")
    if about.get("class") != SparseAutoencoder.__name__:
        raise ValueError(
            f"{path} must hold a SparseAutoencoder, got {about.get('class')!r}: "
            "make one, and call load_into(model, path)"
        )
    try:
        output, dtype = _OUTPUTS[about["output"]](), getattr(torch, about["dtype"])
        model = _without_values(about["sizes"], output, dtype)
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as e:
        raise ValueError(f"{path} does not say how to make the model: {e!r}") from None
    check_fits(path, tensors, model.state_dict())
    _check_values(model, tensors, f" in {path}")
    model.load_state_dict(tensors, assign=True)
    return model.to(torch.empty(0).device if device is None else device)


def load_into(model: AnyModule, path: FilePath) -> AnyModule:
    """Fill a module of your own with the weights that `save` has written.

    All is checked before anything is written: after an error the model is as it was.

    Args:
        model: changed in place; its names, shapes and dtypes must be those of the file.
        path: of the file.

    Returns:
        model.

    Raises:
        ImportError, OSError: as `load` does.
        TypeError: if the model keeps in its state_dict what is no tensor.
        ValueError: as `load` does, and if the names, shapes or dtypes differ, or the file has
            different values for weights that the model shares.

    Example:
        >>> import tempfile, pathlib
        >>> first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "layer.safetensors")
        ...     save(first, path)
        ...     load_into(second, path) is second
        True
        >>> torch.equal(first.weight, second.weight)
        True
    """
    tensors, _ = read(path, "model")
    state = state_tensors(model)
    check_fits(path, tensors, state)
    _check_values(model, tensors, f" in {path}")
    _check_shared(path, model, tensors)
    model.load_state_dict(tensors)
    return model


def state_tensors(model: object) -> dict[str, Tensor]:
    """The model's state_dict, if it holds nothing but tensors."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"model must keep tensors alone, got {type(value).__name__} in {name}")
    return dict(state)


def check_fits(path: FilePath, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise unless the tensors of a file have the names, shapes and dtypes of a model's state."""
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


def _check_values(model: nn.Module, state: Mapping[str, Tensor], where: str = "") -> None:
    learned = dict(model.named_parameters())
    for name, tensor in state.items():
        if name in learned:
            check_finite(name + where, tensor)
        elif tensor.isnan().any():  # infinity is at home in a buffer: a mask, a running minimum
            raise ValueError(f"{name}{where} must not hold NaN")


def _check_shared(path: FilePath, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    first: dict[int, str] = {}
    for name, target in model.state_dict(keep_vars=True).items():
        other = first.setdefault(id(target), name)
        if not torch.equal(tensors[name], tensors[other]):
            raise ValueError(
                f"{path} does not fit the model, which shares {other} and {name}: they differ"
            )


def _without_values(sizes: Sequence[int], output: Output, dtype: torch.dtype) -> SparseAutoencoder:
    """A model that takes neither memory nor random numbers, for weights to be put in."""
    with torch.device("meta"):
        return SparseAutoencoder(sizes, output).to(dtype)


def _architecture(model: SparseAutoencoder) -> dict[str, object]:
    """What `load` makes the model from; raise if that would be another model."""
    output, dtype = _name_of(model.output), next(model.parameters()).dtype
    made = _without_values(model.sizes, torch.sigmoid, dtype)
    ours, theirs = (
        [(name, p.shape, p.dtype) for name, p in m.named_parameters()] for m in (model, made)
    )
    if ours != theirs or len(model.state_dict()) != len(ours):
        raise ValueError(
            f"model must have the layers that its sizes {model.sizes} say, none of them shared, "
            "for load to make it again: save a subclass of SparseAutoencoder, and use load_into"
        )
    return {"sizes": model.sizes, "output": output, "dtype": str(dtype).removeprefix("torch.")}


def _name_of(output: Output) -> str:
    for name, make in _OUTPUTS.items():
        known = make()
        if output is known or (type(output) is nn.Identity and type(known) is nn.Identity):
            return name
    raise ValueError(
        "output must be torch.sigmoid, torch.relu, torch.tanh or torch.nn.Identity() to be saved "
        f"by name, got {output!r}: save a subclass of SparseAutoencoder, and use load_into"
    )
