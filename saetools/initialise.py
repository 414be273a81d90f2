"""Initialisation from data: units that start at the asked frequency.

In place, without a gradient; each function returns its argument.
"""

import math

import torch
from torch import Tensor, nn

from saetools.data.checks import (
    check_count,
    check_finite,
    check_number,
    check_rho,
    check_tensor,
)


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
    scale_rows(layer, spread_of(pre_activations))
    return layer


def spread_of(pre_activations: Tensor) -> Tensor:
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


def scale_rows(layer: nn.Linear, spread: Tensor) -> None:
    """Divide each row of the layer, weight and bias, by the spread of its unit."""
    torch.clear_autocast_cache()
    layer.weight.div_(spread[:, None])
    if layer.bias is not None:
        layer.bias.div_(spread)


_ITERATIONS = 2000  # 20 to 100 as a rule; the slowest of 512 climbs on the days took 1190


@torch.no_grad()
def skewed_units_(layer: nn.Linear, inputs: Tensor, *, starts: int = 8, seed: int = 0) -> nn.Linear:
    """Turn the units of `layer` to uncorrelated directions with a long tail upwards.

    A unit that is to be on rarely should be one that is near one value for most rows and far
    above it for a few. The inputs' first L principal components are scaled to a spread of 1, and
    rotated so that the sum of the units' skewness, the mean of z^3, is largest. Where rows are
    made of rare additive causes, these are the directions of the causes. Afterwards each unit
    has a mean of 0 and a spread of 1, no two are correlated, and the most skewed comes first.

    Args:
        layer: its weight (L, D) and bias (L,), if it has one, are changed in place; without a
            bias the units keep the mean that the rows give them.
        inputs: (B, D), what the layer is given, on many rows.
        starts: how many random rotations to climb from; the best end is taken.
        seed: of these rotations; the global random state is not used.

    Returns:
        layer.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if inputs is not finite or does not match the layer, or varies in fewer than
            L directions.

    Source: the fixed-point iteration of Hyvärinen and Oja 2000, Independent component analysis:
    algorithms and applications, for all units at once, with the square as its nonlinearity,
    which is the one for skewness.

    Example:
        >>> causes = (torch.rand(2000, 3) < 0.1).float()  # rare, and mixed:
        >>> inputs = causes @ torch.tensor([[1.0, 2.0, 0.0], [0.5, 1.0, 3.0], [2.0, 1.0, 1.0]])
        >>> z = skewed_units_(nn.Linear(3, 3), inputs)(inputs)
        >>> units_of_causes = ((z > 1).float().T @ causes).argmax(0)
        >>> sorted(units_of_causes.tolist())
        [0, 1, 2]
    """
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"layer must be an nn.Linear, got {type(layer).__name__}")
    check_finite("inputs", check_tensor("inputs", inputs, dims=2, rows=2))
    if inputs.ndim != 2 or inputs.shape[1] != layer.in_features:
        raise ValueError(
            f"inputs must have the shape (B, {layer.in_features}) of what the layer is given, "
            f"got {tuple(inputs.shape)}"
        )
    check_count("starts", starts)
    check_count("seed", seed, minimum=0)
    exact = inputs.to("cpu", torch.float64)  # which not every device has
    mean = exact.mean(0)
    whiten = _whitening(exact - mean, layer.out_features, float(exact.norm()))  # (L, D)
    z = (exact - mean) @ whiten.T  # (B, L)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(starts, *[layer.out_features] * 2, generator=generator, device="cpu")
    ends = [_climb(z, torch.linalg.qr(draw)[0]) for draw in draws.double()]
    rotation = max(ends, key=lambda end: float(_skewness(z, end).sum()))
    # In an order that does not depend on which start found them.
    rotation = rotation[_skewness(z, rotation).argsort(descending=True)]
    weight = rotation @ whiten
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(-weight @ mean)
    return layer


@torch.no_grad()
def varying_directions(inputs: Tensor) -> int:
    """In how many directions the rows of inputs (B, D) vary: how many units can be skewed.

    Example:
        >>> varying_directions(torch.tensor([[0.0, 1.0, 5.0], [1.0, 3.0, 5.0], [2.0, 5.0, 5.0]]))
        1
    """
    exact = inputs.double()
    return _count_varying(torch.linalg.svdvals(exact - exact.mean(0)), float(exact.norm()))


def _count_varying(sizes: Tensor, size: float) -> int:
    """How many of the singular values `sizes`, largest first, are more than rounding.

    `size` is the norm of the rows before they were centred.
    """
    least = max(1e-6 * float(sizes[0]), 1e-9 * size)  # inputs are float32 as a rule
    return int((sizes > least).sum())


def _whitening(centred: Tensor, units: int, size: float) -> Tensor:
    """The first principal axes (units, D), scaled so that the rows have a spread of 1 there.

    `size` is the norm of the rows before they were centred, to tell variation from rounding.
    """
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    varying = _count_varying(sizes, size)
    if varying < units:
        raise ValueError(
            f"inputs must vary in at least as many directions as the layer has units, {units}, "
            f"got {varying}: give more rows, or leave the units as they are"
        )
    scaled: Tensor = (len(centred) ** 0.5 / sizes[:units])[:, None] * axes[:units]
    return scaled


def _skewness(z: Tensor, rotation: Tensor) -> Tensor:
    return (z @ rotation.T).pow(3).mean(0)  # (L,)


def _climb(z: Tensor, rotation: Tensor) -> Tensor:
    """A local maximum (L, L) of the summed skewness, reached from `rotation`.

    The iteration alone may circle near a maximum; half of the last rotation, added to the slope,
    holds it back from overshooting.
    """
    for _ in range(_ITERATIONS):
        slope = (z @ rotation.T).square().T @ z / len(z)
        left, _, right = torch.linalg.svd(slope + 0.5 * rotation)
        last, rotation = rotation, left @ right  # the orthogonal matrix nearest to that sum
        if (rotation - last).abs().max() < 1e-9:
            break
    return rotation
