"""Models of one shape as one module that computes with the weights of all."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saetools.training.identity import settings_of
from saetools.training.models import SparseAutoencoder, check_autoencoder


class _StackedLinear(nn.Module):
    """N linear layers as one batched product: (N, B, D) -> (N, B, L)."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        weight = torch.stack([layer.weight.detach().T for layer in layers])  # (N, D, L)
        bias = torch.stack([layer.bias.detach() for layer in layers])[:, None]  # (N, 1, L)
        self.weight = nn.Parameter(weight, layers[0].weight.requires_grad)
        self.bias = nn.Parameter(bias, layers[0].bias.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:  # the same rows for every member
            x = x.expand(len(self.weight), *x.shape)
        # Faster than baddbmm, which copies the bias first.
        return torch.bmm(x, self.weight).add_(self.bias)


def stack(models: Sequence[SparseAutoencoder]) -> SparseAutoencoder:
    """A copy of the first of models that are alike, which computes with the weights of all."""
    ensemble = copy.deepcopy(models[0])
    members = [_linears(model) for model in models]
    for name in members[0]:
        parent, _, child = name.rpartition(".")
        stacked = _StackedLinear([layers[name] for layers in members])
        setattr(ensemble.get_submodule(parent), child, stacked)
    for name, state in _states(ensemble).items():
        parent, _, child = f"activation.{name}".rpartition(".")
        values = torch.stack([_states(model)[name].detach() for model in models])  # (N, ...)
        if isinstance(state, nn.Parameter):
            values = nn.Parameter(values, state.requires_grad)
        setattr(ensemble.get_submodule(parent), child, values)
    # In place, which is faster: nobody else sees what a stacked layer returns.
    ensemble._rectify = torch.relu_
    return ensemble


@torch.no_grad()
def unstack(ensemble: SparseAutoencoder, models: Sequence[SparseAutoencoder]) -> None:
    """Copy the members' weights back into `models`."""
    for i, model in enumerate(models):
        for name, layer in _linears(model).items():
            stacked = ensemble.get_submodule(name)
            layer.weight.copy_(stacked.weight[i].T)  # type: ignore[index]
            layer.bias.copy_(stacked.bias[i, 0])  # type: ignore[index]
        for name, state in _states(model).items():
            state.copy_(_states(ensemble)[name][i])


def _states(model: SparseAutoencoder) -> dict[str, Tensor]:
    """The parameters and buffers of its activation, if that is a module."""
    activation = model.activation
    if not isinstance(activation, nn.Module):
        return {}
    return dict([*activation.named_parameters(), *activation.named_buffers()])


def check_models(models: object) -> None:
    """Raise unless `models` is a list of at least one SparseAutoencoder."""
    if not isinstance(models, Sequence):
        advice = ": say [model]" if isinstance(models, nn.Module) else ""
        raise TypeError(f"models must be a list of models, got {type(models).__name__}{advice}")
    if len(models) == 0:
        raise ValueError("models must hold at least one model, got none")
    for i, model in enumerate(models):
        is_list = isinstance(model, list | tuple | nn.ModuleList)
        remedy = "say list(models)" if is_list else "see train_layer_at_frequency"
        check_autoencoder(f"models[{i}]", model, remedy)


def check_alike(models: Sequence[SparseAutoencoder]) -> Sequence[SparseAutoencoder]:
    """The models, if they can be stacked: they differ in their weights alone, and share none."""
    check_models(models)
    first = _settings(models[0])
    owners: dict[int, int] = {}
    for i, model in enumerate(models):
        own = _settings(model)
        for name in {**first, **own}:
            if (a := first.get(name)) is not (b := own.get(name)) and a != b:
                where = f"{name} is {a} in models[0], {b} in models[{i}]"
                raise ValueError(f"models must be alike in all but weights: {where}")
        for parameter in (*model.parameters(), *model.buffers()):
            if (owner := owners.setdefault(id(parameter), i)) != i:
                both = f"models[{owner}] and models[{i}]"
                raise ValueError(f"models must be separate, {both} share weights")
        _linears(model)
    return models


def _settings(model: nn.Module) -> dict[str, Any]:
    kinds = {
        f"{name}.{kind}": getattr(parameter, kind)
        for name, parameter in model.named_parameters()
        for kind in ("dtype", "device", "requires_grad")
    }
    return settings_of(model) | {"training": model.training} | kinds


def _linears(model: SparseAutoencoder) -> dict[str, nn.Linear]:
    """The linear layers by name, to which every parameter must belong."""
    layers = {name: part for name, part in model.named_modules() if type(part) is nn.Linear}
    stacked = {f"{name}.{part}" for name in layers for part in ("weight", "bias")}
    of_activation = set()
    if getattr(model.activation, "stackable", False):
        of_activation = {f"activation.{name}" for name in _states(model)}
    held = set(model.state_dict()) - of_activation
    if surplus := sorted(stacked.symmetric_difference(held)):
        raise ValueError(
            "models must have all of their parameters and buffers in torch.nn.Linear layers with "
            "a bias, or in an activation of saetools, which are what is stacked; not so: "
            f"{', '.join(surplus)}"
        )
    own = [name for name, _ in model.named_parameters() if name not in of_activation]
    if len(own) < len(stacked):
        raise ValueError("models must not share a parameter between layers")
    return layers
