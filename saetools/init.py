"""Initialisation from data: units that start at the asked frequency.

In place, without a gradient; each function returns its argument.
"""

import math

import torch
from torch import Tensor, nn

from saetools._checks import check_finite, check_like, check_number, check_rho, check_tensor
from saetools.models import SparseAutoencoder


@torch.no_grad()
def target_frequency_(
    bias: Tensor,
    pre_activations: Tensor,
    rho: float | Tensor,
    *,
    tolerance: float = 0.05,
) -> Tensor:
    """Shift `bias` so that each unit is active on a share rho of the rows.

    The bias loses the (1 - rho) quantile of its unit's pre-activations, taken half-way between
    the two values that it separates. Where rows are tied, the nearest share that a threshold
    can reach is taken.

    Args:
        bias: (L,), or (..., L) for an ensemble; changed in place.
        pre_activations: (..., B, L), computed with this bias, on many rows.
        rho: target frequency, in (0, 1); a tensor is broadcast against bias.
        tolerance: how far from rho the reached share may be, in (0, 1).

    Returns:
        bias.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if shapes do not match, pre_activations are not finite, or a unit cannot
            reach rho within the tolerance: it is constant, tied, or there are too few rows.

    Source: the quantile of the data as a bias, as in Anthropic's January 2025 update on
    dictionary learning.

    Example:
        >>> z = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])
        >>> target_frequency_(torch.zeros(1), z, 0.2)  # half-way between 3 and 10
        tensor([-6.5000])
    """
    check_finite("pre_activations", check_tensor("pre_activations", pre_activations, dims=2))
    check_tensor("bias", bias, dims=1)
    if not 0 < check_number("tolerance", tolerance) < 1:
        raise ValueError(f"tolerance must lie strictly between 0 and 1, got {tolerance}")
    shape = (*pre_activations.shape[:-2], pre_activations.shape[-1])
    if bias.shape != shape:
        raise ValueError(
            f"bias must have one value a unit of pre_activations, shape {shape}, "
            f"got {tuple(bias.shape)}"
        )
    rows = pre_activations.shape[-2]
    target = check_rho(rho, like=bias, shape=bias.shape).expand(shape)
    values = pre_activations.sort(dim=-2).values
    thresholds = (values[..., 1:, :] + values[..., :-1, :]) / 2
    # A threshold after the k-th smallest value leaves rows - k active, if it separates anything.
    reached = torch.arange(rows - 1, 0, -1, device=bias.device)[:, None] / rows
    misses = (reached - target.unsqueeze(-2)).abs()
    separates = (values[..., :-1, :] < thresholds) & (thresholds < values[..., 1:, :])
    misses = misses.where(separates, torch.inf)
    if rows == 1 or (misses.amin(-2) > tolerance).any():
        raise ValueError(_unreachable(misses, reached, target, tolerance, rows))
    best = misses.argmin(-2, keepdim=True)
    torch.clear_autocast_cache()  # or the rest of an autocast block would use the bias as it was
    return bias.sub_(thresholds.gather(-2, best).squeeze(-2))


def _unreachable(
    misses: Tensor, reached: Tensor, target: Tensor, tolerance: float, rows: int
) -> str:
    if rows == 1:
        return "pre_activations must have at least 2 rows: no threshold divides a single one"
    unit = tuple((misses.amin(-2) > tolerance).nonzero()[0].tolist())
    misses_of_unit = misses[(*unit[:-1], slice(None), unit[-1])]
    where, wanted = f"unit {unit if len(unit) > 1 else unit[0]}", target[unit].item()
    if misses_of_unit.isinf().all():
        return f"{where} does not vary over the {rows} rows of pre_activations: no bias helps"
    nearest = reached[misses_of_unit.argmin(), 0].item()
    enough = math.ceil(100 * abs(nearest - wanted)) / 100
    return (
        f"{where} cannot be active on a share rho = {wanted:.3g} of the {rows} rows of "
        f"pre_activations: with ties and so many rows, the nearest share is {nearest:.3g}. "
        f"Give more rows, or allow it with tolerance={enough:g}"
    )


@torch.no_grad()
def unit_spread_(layer: nn.Linear, pre_activations: Tensor) -> nn.Linear:
    """Scale the rows of `layer` so that each unit's pre-activations have a spread of 1.

    One temperature then suits all of its units. Weight and bias are scaled alike, so that the
    share of rows on which a unit is active stays as it is.

    Args:
        layer: its weight (L, D) and bias (L,), if it has one, are changed in place.
        pre_activations: (B, L), what `layer` returns, on many rows.

    Returns:
        layer.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if shapes do not match, pre_activations are not finite, or a unit does not
            vary over the rows.

    Source: Mishkin and Matas 2016 (LSUV), arXiv 1511.06422, there for a whole layer at a time.

    Example:
        >>> layer, x = nn.Linear(3, 2), torch.randn(100, 3)
        >>> spread = unit_spread_(layer, layer(x))(x).std(0)
        >>> torch.allclose(spread, torch.ones(2))
        True
    """
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"layer must be an nn.Linear, got {type(layer).__name__}")
    check_finite(
        "pre_activations", check_tensor("pre_activations", pre_activations, dims=2, rows=2)
    )
    if pre_activations.ndim != 2 or pre_activations.shape[1] != layer.out_features:
        raise ValueError(
            f"pre_activations must have the shape (B, {layer.out_features}) of the layer's "
            f"units, got {tuple(pre_activations.shape)}"
        )
    _scale_rows(layer, _spread(pre_activations))
    return layer


def _spread(pre_activations: Tensor) -> Tensor:
    """Standard deviation of each unit over the rows; an error for a unit that is constant."""
    spread = pre_activations.std(0)
    # Relative to the values, as a constant unit's computed spread is rounding, not 0.
    least = 10 * torch.finfo(spread.dtype).eps * pre_activations.abs().amax(0)
    if (constant := spread <= least).any():
        unit = int(constant.nonzero()[0])
        raise ValueError(
            f"unit {unit} does not vary over the {len(pre_activations)} rows of "
            "pre_activations: it cannot be scaled to a spread of 1"
        )
    return spread


def _scale_rows(layer: nn.Linear, spread: Tensor) -> None:
    torch.clear_autocast_cache()
    layer.weight.div_(spread[:, None])
    if layer.bias is not None:
        layer.bias.div_(spread)


@torch.no_grad()
def initialise_for_frequency_(
    model: SparseAutoencoder, x: Tensor, *, rho: float | Tensor, tolerance: float = 0.05
) -> SparseAutoencoder:
    """Make each unit of the code active on a share rho of the rows of x, with a spread of 1.

    One forward pass; `unit_spread_` and `target_frequency_` on the code's layer. The other
    layers keep their weights.

    Args:
        model: changed in place.
        x: (B, D), many training rows, on the model's device.
        rho: target frequency, in (0, 1); a tensor (L,) for one a unit.
        tolerance: how far from rho a unit may start, in (0, 1).

    Returns:
        model.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if x is not as above, or a unit cannot reach rho: see target_frequency_.

    Example:
        >>> from saetools import activation_frequency
        >>> model, x = SparseAutoencoder(seed=0), torch.rand(100, 20)
        >>> activation_frequency(initialise_for_frequency_(model, x, rho=0.2).encode(x))
        tensor([0.2000, 0.2000, 0.2000, 0.2000])
    """
    if not isinstance(model, SparseAutoencoder):
        raise TypeError(
            f"model must be a SparseAutoencoder, got {type(model).__name__}: for another one, "
            "use unit_spread_ and target_frequency_ on the layer of its code"
        )
    check_finite("x", check_like("x", check_tensor("x", x, dims=2, rows=2), model))
    if x.ndim != 2:
        raise ValueError(f"x must have 2 dims, (rows, D), got shape {tuple(x.shape)}")
    code = model.encoder[-1]
    assert isinstance(code, nn.Linear)
    pre_activations = model.encode(x)
    spread = _spread(pre_activations)  # before anything is changed; a shift leaves it as it is
    target_frequency_(code.bias, pre_activations, rho, tolerance=tolerance)
    _scale_rows(code, spread)
    return model
