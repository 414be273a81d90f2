"""What the layers of any model return, captured while it runs: the pre-activations to penalise."""

import difflib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

_COMPILED = (
    ". A model that was compiled and called before it was captured does not see the Capture: "
    "call torch.compiler.reset()"
)


class Capture:
    """The outputs of named layers, from the latest call of a model.

    It puts forward hooks on the model, which `remove()` or the end of a `with` block takes off
    again. Outputs stay readable until the next call of the model begins. They are copies, in the
    graph, so that an activation that works in place does not overwrite them.

    Args:
        model: the module that you call, as `model(x)`; what runs outside of such a call
            (`model.forward(x)`, `model.encoder(x)`) or in a copy of the model is not captured.
        layers: the names of one or more of its modules, as in `model.named_modules()`. A
            pre-activation is what the layer before the ReLU returns. One that no module returns
            gets a name by sending it through an `nn.Identity`.
        select: what to take of a layer's output where that is no tensor. An `nn.LSTM` returns
            (output, state): `select=lambda returned: returned[0]`.

    Wrappers put their own name in front: `"module.encoder.4"` in DistributedDataParallel,
    `"_orig_mod.encoder.4"` in what torch.compile returns; the model inside keeps its own names. A
    compiled model is captured without a graph break, from before its first call on; reading a
    Capture that comes later may raise. Activation checkpointing needs `use_reentrant=False`.

    Example:
        >>> from saetools import frequency_penalty
        >>> model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(inplace=True), nn.Linear(8, 20))
        >>> captured = Capture(model, "0")
        >>> x = torch.rand(100, 20)
        >>> loss = (model(x) - x).square().mean()
        >>> loss = loss + frequency_penalty(captured["0"], rho=0.2)
        >>> loss.backward()
        >>> captured.remove()

        Several layers, while a block lasts:

        >>> with Capture(model, "0", "2") as captured:
        ...     output = model(x)
        >>> {name: tuple(captured[name].shape) for name in captured.layers}
        {'0': (100, 8), '2': (100, 20)}
    """

    def __init__(
        self, model: nn.Module, *layers: str, select: Callable[[Any], Tensor] | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        if select is not None and not callable(select):
            raise TypeError(f"select must be a function, got {type(select).__name__}")
        modules = dict(model.named_modules(remove_duplicate=False))
        _check_layers(layers, modules)
        self.layers = tuple(dict.fromkeys(layers))
        self._select = select
        self._runs: dict[str, list[Tensor]] = {}  # of the latest call of the model
        self._running = False
        self._differentiable = False  # whether that call builds a graph
        self._cut: set[str] = set()  # the layers that ran outside of it
        self._handles = [model.register_forward_pre_hook(self._begin)]
        for name in self.layers:
            store = partial(self._store, name)
            self._handles.append(modules[name].register_forward_hook(store))
        self._handles.append(model.register_forward_hook(self._end, always_call=True))

    def __getitem__(self, layer: str) -> Tensor:
        """The output of `layer` in the latest call of the model.

        Raises:
            RuntimeError: if the layer did not run, ran more than once (see `runs`), or ran
                without a gradient inside a call with one and is read where gradients are on.
        """
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
        if not self._runs:
            raise RuntimeError(
                f"layer {layer!r} has no output yet: call the model, as model(x), first. Neither "
                f"model.forward(x) nor a call of a part of the model counts{_COMPILED}"
            )
        if not self._runs[layer]:
            raise RuntimeError(f"layer {layer!r} did not run in the model's latest call{_COMPILED}")
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
        # A copy of the model brings a copy of its hooks, which shall store nothing.
        return self.__dict__ | {"layers": (), "_select": None, "_runs": {}, "_handles": []}

    def _begin(self, _model: nn.Module, _args: Any) -> None:
        self._runs = {name: [] for name in self.layers}
        self._running, self._differentiable = True, torch.is_grad_enabled()
        self._cut = set()

    def _store(self, name: str, _layer: nn.Module, _args: Any, output: Any) -> None:
        if name not in self.layers:
            return
        # Stored or not: a checkpoint's second run must do what its first did.
        if self._select is not None:
            output = self._select(output)
        if not isinstance(output, Tensor):
            what = "the output" if self._select is None else "what select takes"
            raise TypeError(
                f"{what} of layer {name!r} must be a torch.Tensor, got {type(output).__name__}: "
                "say what to take, for instance select=lambda returned: returned[0]"
            )
        if self._running:
            self._runs[name].append(output.clone())
            if self._differentiable and not torch.is_grad_enabled():
                self._cut.add(name)

    # Arguments in one tuple, as torch.compile reads the .grad of a named output, which warns.
    def _end(self, *_model_args_output: Any) -> None:
        self._running = False


def _check_layers(layers: tuple[object, ...], modules: dict[str, nn.Module]) -> None:
    if not layers:
        raise ValueError("layers must name at least one module of the model, got none")
    for name in layers:
        if not isinstance(name, str):
            raise TypeError(
                f"layers must be names, each a str, got {type(name).__name__}: several are given "
                "as Capture(model, 'encoder.2', 'encoder.4')"
            )
        if name not in modules:
            within = [other for other in modules if other.endswith(f".{name}")]
            near = dict.fromkeys(difflib.get_close_matches(name, modules, cutoff=0.5) + within)
            meant = f"did you mean {_listed(near)}? " if near else ""
            raise ValueError(
                f"layers must be names of modules of the model, got {name!r}: {meant}"
                f"It has {_listed(filter(None, modules))}"
            )


def _listed(names: Iterable[str], most: int = 20) -> str:
    every = [repr(name) for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return (", ".join(every[:most]) or "none") + more
