"""Units that died, begun again, and nothing else touched: not the others, not their Adam."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from saetools.data.checks import check_finite, check_kind, check_rows
from saetools.initialise import spread_of, target_frequency_


@torch.no_grad()
def restart_rows_(
    parameter: Tensor, rows: Tensor, values: Tensor, optimizer: Optimizer | None = None
) -> Tensor:
    """Put `values` into the chosen rows of a parameter, and have the optimizer forget these rows.

    What it holds for them (Adam's two means, a momentum) is set to 0, as the old row's would drag
    the new one; the other rows, and the number of steps, stay. So the first step of Adam moves a
    new row by up to 3 learning rates. Returns the parameter.

    Args:
        parameter: (M, ...), or (N, M, ...) for an ensemble: a codebook, a layer's weight or bias.
        rows: bools over its first dim or dims, True for the rows to begin again.
        values: the new rows, (number of them, ...); any number of them, none included.
        optimizer: the one that holds the parameter.

    Example:
        >>> codebook = nn.Parameter(torch.zeros(3, 2))
        >>> restart_rows_(codebook, torch.tensor([False, True, False]), torch.ones(1, 2)).tolist()
        [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """
    check_kind("parameter", parameter, Tensor, "a torch.Tensor, such as layer.weight")
    wanted = f"over the first dims of parameter, {tuple(parameter.shape)}"
    check_kind("rows", rows, Tensor, f"bools {wanted}")
    if rows.dtype != torch.bool or rows.shape != parameter.shape[: rows.ndim] or rows.ndim == 0:
        raise ValueError(f"rows must be bools {wanted}, got {rows.dtype} {tuple(rows.shape)}")
    check_kind("values", values, Tensor, "a torch.Tensor")
    check_kind("optimizer", optimizer, Optimizer | None, "an optimizer of torch")
    needed = (int(rows.sum()), *parameter.shape[rows.ndim :])
    if values.shape != needed:
        raise ValueError(f"values must have the shape {needed}, got {tuple(values.shape)}")
    check_finite("values", values)
    parameter[rows] = values.to(parameter)
    for state in (optimizer.state.get(parameter, {}) if optimizer else {}).values():
        if isinstance(state, Tensor) and state.shape == parameter.shape:
            state[rows] = 0
    return parameter


@torch.no_grad()
def revive_(
    layer: nn.Linear,
    units: Tensor,
    inputs: Tensor,
    *,
    rho: float | Tensor,
    optimizer: Optimizer | None = None,
    generator: torch.Generator | None = None,
) -> nn.Linear:
    """Begin chosen units again, each in the direction of a random row, with a spread of 1, at rho.

    Weight and bias of the others stay as they are to the last bit, and so does what the optimizer
    holds for them. Where the layer's readers have weights for the units (a decoder's columns),
    these stay, too.

    Args:
        layer: with a bias, before a ReLU; changed in place.
        units: bools (L,), as `dead_latents` gives.
        inputs: (B, D), what the layer is given, on many rows.
        rho: the share of these rows on which a revived unit is on; a tensor is for those alone.
        optimizer: the one that holds the layer.
        generator: which rows are drawn.

    Raises:
        ValueError: and leaves the layer alone, if a unit cannot be brought to rho on these rows.

    Example:
        >>> layer, x = nn.Linear(3, 4), torch.randn(100, 3)
        >>> dead = torch.tensor([True, False, False, True])
        >>> frequency = (revive_(layer, dead, x, rho=0.2)(x) > 0).float().mean(0)
        >>> frequency[dead]
        tensor([0.2000, 0.2000])
    """
    if not isinstance(layer, nn.Linear) or layer.bias is None:
        raise TypeError(f"layer must be an nn.Linear with a bias, got {layer}")
    wanted = f"bools of shape {(layer.out_features,)}"
    check_kind("units", units, Tensor, wanted)
    check_kind("optimizer", optimizer, Optimizer | None, "an optimizer of torch")
    check_kind("generator", generator, torch.Generator | None, "a torch.Generator")
    if units.dtype != torch.bool or units.shape != (layer.out_features,):
        raise ValueError(f"units must be {wanted}, got {units.dtype} {tuple(units.shape)}")
    check_finite("inputs", check_rows("inputs", inputs, least=2))
    if not units.any():
        return layer
    device = "cpu" if generator is None else generator.device
    draws = torch.randint(len(inputs), (int(units.sum()),), generator=generator, device=device)
    weight = inputs[draws.to(inputs.device)] - inputs.mean(0)
    weight /= spread_of(inputs @ weight.T)[:, None]
    bias = weight.new_zeros(len(weight))
    target_frequency_(bias, inputs @ weight.T, rho)
    restart_rows_(layer.weight, units, weight, optimizer)
    restart_rows_(layer.bias, units, bias, optimizer)
    return layer
