"""A `SparseAutoencoder` in a safetensors file, from which nothing is executed or unpickled."""

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from saetools.data.checks import check_finite, needs
from saetools.training.checkpoints import FilePath, checked_path, write_atomically
from saetools.training.models import SparseAutoencoder, check_autoencoder

_FORMAT = 1  # to be raised when an older reader would misunderstand a file
_OUTPUTS: dict[str, Callable[[], Any]] = {  # what makes the function of each name
    "sigmoid": lambda: torch.sigmoid,
    "relu": lambda: torch.relu,
    "tanh": lambda: torch.tanh,
    "identity": nn.Identity,
}
_SETTINGS = ("centred", "unit_norm_decoder")  # False where a file does not name them


def save(model: SparseAutoencoder, path: FilePath) -> None:
    """Write a model of finite weights to a file, from which `load` makes it again.

    Its activation is torch.relu, its output function torch.sigmoid, torch.relu, torch.tanh or
    nn.Identity(). The file appears whole or not at all: if writing fails, an older one stays as it
    was. Not kept: which parameters learn, training or evaluation mode, hooks. For any other module
    there are safetensors.torch.save_model(model, path), and load_model(model, path), which fills a
    module.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(SparseAutoencoder((20, 8), torch.tanh), f"{folder}/model.safetensors")
        ...     load(f"{folder}/model.safetensors").sizes
        (20, 8)
    """
    remedy = "use safetensors.torch.save_model"
    check_autoencoder("model", model, remedy)
    if type(model) is not SparseAutoencoder:
        raise TypeError(f"model must be a SparseAutoencoder, got {type(model).__name__}: {remedy}")
    output = model.output
    if model.activation is not torch.relu:
        raise ValueError(f"activation must be torch.relu, got {model.activation!r}: {remedy}")
    names = [n for n, make in _OUTPUTS.items() if output is make() or type(output) is make]
    if not names:
        raise ValueError(f"output must be one of {', '.join(_OUTPUTS)}, got {output!r}: {remedy}")
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    about = {"format": _FORMAT, "sizes": model.sizes, "output": names[0], "dtype": dtype}
    about |= {name: True for name in _SETTINGS if getattr(model, name)}
    # Copies, as the format knows neither strides nor shared memory.
    weights = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    _made("model", weights, about, remedy)
    write_atomically(path, _safetensors().torch.save(weights, {"saetools": json.dumps(about)}))


def load(path: FilePath, *, device: str | torch.device | None = None) -> SparseAutoencoder:
    """The model that `save` has written, with its dtype, in training mode; see its example.

    It is on `device`, or torch's default one. A file of something else is a ValueError.
    """
    safetensors, data = _safetensors(), checked_path(path).read_bytes()
    try:
        with torch.device("cpu"):  # whatever the default device
            weights = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError) as error:
        reason = " ".join(str(error).split())  # it may quote lines of the file
        raise ValueError(f"{path} is no complete safetensors file: {reason}") from None
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = dict(json.loads(header["__metadata__"]["saetools"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        about = {}
    if (found := about.get("format")) != _FORMAT:
        raise ValueError(
            f"{path} must be of saetools' format {_FORMAT}, got {found!r}: update saetools, or, if "
            "saetools.save has not written it, use safetensors.torch.load_model"
        )
    model = _made(str(path), weights, about, "save the model again")
    return model.to(torch.empty(0).device if device is None else device)


def _made(source: str, weights: dict[str, Tensor], about: Any, remedy: str) -> SparseAutoencoder:
    """The model of this description, with these weights, if they are what it has."""
    try:
        output, dtype = _OUTPUTS[about["output"]](), getattr(torch, about["dtype"])
        with torch.device("meta"):  # takes neither memory nor random numbers
            settings: dict[str, Any] = {name: about.get(name) is True for name in _SETTINGS}
            model = SparseAutoencoder(about["sizes"], output, **settings).to(dtype)
        model.load_state_dict(weights, assign=True)
        if (found := {value.dtype for value in weights.values()}) != {dtype}:
            raise TypeError(f"weights of {found}, not {dtype}")
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as e:
        reason = " ".join(f"{type(e).__name__}, {e}".split())
        raise ValueError(
            f"{source} must be a SparseAutoencoder with the layers that its sizes say, none of "
            f"them shared: {remedy} ({reason})"
        ) from None
    for name, value in weights.items():
        check_finite(f"{name} in {source}", value)
    return model


def _safetensors() -> ModuleType:
    with needs("safetensors", extra="saving"):
        import safetensors.torch
    return safetensors
