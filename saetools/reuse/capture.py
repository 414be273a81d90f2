"""What the layers of any model return, captured while it runs: the pre-activations to penalise."""

import difflib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn


class Capture:
    """The outputs of named layers, from the latest call of a model, until the next one begins.

    It puts forward hooks on the model, which `remove()` or the end of a `with` block takes off
    again. Outputs are copies, in the graph, which no activation that works in place overwrites.

    Args:
        model: what you call as `model(x)`; nothing is captured of `model.forward(x)`,
            `model.encoder(x)` or a copy of the model.
        layers: names of its modules, as in `model.named_modules()`. A pre-activation that no module
            returns gets a name by sending it through an `nn.Identity`.
        select: what to take of an output that is no tensor. An `nn.LSTM` returns (output, state):
            `select=lambda returned: returned[0]`.

    Wrappers put their own name in front: `"module.encoder.4"` in DistributedDataParallel,
    `"_orig_mod.encoder.4"` in what torch.compile returns, which is captured before its first call
    (later, reading may raise). Activation checkpointing needs `use_reentrant=False`.

    Example:
        >>> from saetools import frequency_penalty
        >>> model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(inplace=True), nn.Linear(8, 20))
        >>> x = torch.rand(100, 20)
        >>> with Capture(model, "0") as captured:
        ...     error = (model(x) - x).square().mean()
        >>> (error + frequency_penalty(captured["0"], rho=0.2)).backward()
    """

    def __init__(
        self, model: nn.Module, *layers: str, select: Callable[[Any], Tensor] | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        if select is not None and not callable(select):
            raise TypeError(f"select must be a function, got {type(select).__name__}")
        modules = dict(model.named_modules(remove_duplicate=False))
        if not layers:
            raise ValueError("layers must name at least one module of the model, got none")
        for name in layers:
            _check_name(name, modules)
        self.layers = tuple(dict.fromkeys(layers))
        self._select = select or (lambda output: output)
        self._runs: dict[str, list[Tensor]] = {}  # of the latest call of the model
        self._cut: set[str] = set()  # the layers that ran in it outside of its graph
        self._builds_graph: bool | None = None  # None between calls
        self._handles = [
            model.register_forward_pre_hook(self._begin),
            *(modules[n].register_forward_hook(partial(self._store, n)) for n in self.layers),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def __getitem__(self, layer: str) -> Tensor:
        """The output of a `layer` that ran once in the latest call of the model."""
        runs = self.runs(layer)
        if len(runs) > 1:
            raise RuntimeError(
                f"layer {layer!r} ran {len(runs)} times in the latest call of the model: "
                f"runs({layer!r}) gives the output of each"
            )
        return runs[0]

    def runs(self, layer: str) -> tuple[Tensor, ...]:
        """The outputs of a `layer` that may run more than once in a call of the model, in order."""
        if layer not in self.layers:
            raise KeyError(f"layer {layer!r} is not captured, but {_listed(self.layers)}")
        if not self._runs.get(layer):
            raise RuntimeError(
                f"layer {layer!r} did not run in the model's latest call, as model(x). Neither "
                "model.forward(x) nor a call of a part counts, nor does a layer run whose weights "
                "are read by another, as out_proj's of nn.MultiheadAttention; a model that was "
                "compiled and called before does not see the Capture: call torch.compiler.reset()"
            )
        if layer in self._cut and torch.is_grad_enabled():
            raise RuntimeError(
                f"layer {layer!r} ran without a gradient inside the model: a penalty on it would "
                "do nothing. In torch.utils.checkpoint give use_reentrant=False; to read the "
                "output alone, do so under torch.no_grad()"
            )
        return tuple(self._runs[layer])

    def remove(self) -> None:
        """Take the hooks off the model. What was captured stays readable."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, Any]:
        # In a copy of the model: its hooks shall store nothing.
        return self.__dict__ | {"layers": (), "_select": None, "_runs": {}, "_handles": []}

    def _begin(self, _model: nn.Module, _args: Any) -> None:
        self._runs = {name: [] for name in self.layers}
        self._cut, self._builds_graph = set(), torch.is_grad_enabled()

    def _store(self, name: str, _layer: nn.Module, _args: Any, output: Any) -> None:
        if name not in self.layers:
            return
        output = self._select(output)  # in a checkpoint's second run as in its first
        if not isinstance(output, Tensor):
            got = f"{type(output).__name__}: say what, as in select=lambda returned: returned[0]"
            raise TypeError(f"what is taken of layer {name!r} must be a torch.Tensor, got {got}")
        if self._builds_graph is not None:
            self._runs[name].append(output.clone())
            if self._builds_graph and not torch.is_grad_enabled():
                self._cut.add(name)

    # Arguments in one tuple, as torch.compile reads the .grad of a named output, which warns.
    def _end(self, *_model_args_output: Any) -> None:
        self._builds_graph = None


def _check_name(name: object, modules: dict[str, nn.Module]) -> None:
    if not isinstance(name, str):
        several = "several are given as Capture(model, 'encoder.2', 'encoder.4')"
        raise TypeError(f"layers must be names, each a str, got {type(name).__name__}: {several}")
    if name not in modules:
        within = [other for other in modules if other.endswith(f".{name}")]
        near = dict.fromkeys(difflib.get_close_matches(name, modules, cutoff=0.5) + within)
        meant = f"did you mean {_listed(near)}? " if near else ""
        meant += f"It has {_listed(filter(None, modules))}"
        raise ValueError(f"layers must name modules of the model, got {name!r}: {meant}")


def _listed(names: Iterable[str], most: int = 20) -> str:
    every = [repr(name) for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return (", ".join(every[:most]) or "none") + more
