"""Initialisation from data: units that start at the asked frequency.

Without a gradient; each function returns its argument, changed, or raises and leaves it alone.
"""

import math

import torch
from torch import Tensor, nn

from saetools.data.checks import check_finite, check_number, check_rho, check_tensor
from saetools.frequency import in_single


@torch.no_grad()
def target_frequency_(
    bias: Tensor, pre_activations: Tensor, rho: float | Tensor, *, tolerance: float | None = None
) -> Tensor:
    """Shift `bias` so that each unit is active on a share rho of the rows.

    The bias loses the (1 - rho) quantile of its unit's pre-activations, half-way between the values
    that it separates, or, of tied rows, the one that comes nearest. Source: Anthropic's January
    2025 update on dictionary learning.

    Args:
        bias: (L,), or (..., L) for an ensemble; changed in place. What is indexed by units is a
            copy: for some of them say `bias[some] = target_frequency_(bias[some], z[:, some], rho)`
            under torch.no_grad().
        pre_activations: (..., B, L), computed with this bias, on many rows.
        rho: target frequency, in (0, 1); a tensor is broadcast against bias.
        tolerance: in (0, 1); a unit that cannot come so near to rho, since it is constant or tied,
            or rows are too few, is an error. By default 0.05, or if that is less a quarter of rho
            (of 1 - rho).

    Example:
        >>> z = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])
        >>> target_frequency_(torch.zeros(1), z, 0.2)  # half-way between 3 and 10
        tensor([-6.5000])
    """
    z = check_tensor("pre_activations", pre_activations, dims=2, rows=2)
    check_finite("pre_activations", z)
    check_tensor("bias", bias, dims=1)
    if tolerance is not None and not 0 < check_number("tolerance", tolerance) < 1:
        raise ValueError(f"tolerance must lie strictly between 0 and 1, got {tolerance}")
    units = (*z.shape[:-2], z.shape[-1])
    if bias.shape != units:
        shapes = f"shape {units}, got {tuple(bias.shape)}"
        raise ValueError(f"bias must have one value per unit of pre_activations, {shapes}")
    if bias.grad_fn is not None and not bias._is_view():
        advice = "index it under torch.no_grad(), and assign what is returned: bias[some] = ..."
        raise ValueError(f"bias must be a parameter or a view, got a copy of one: {advice}")
    z = in_single(z)
    target = check_rho(rho, like=z, shape=bias.shape).expand(units)
    rare = torch.minimum(target, 1 - target)
    allowed = (rare / 4).clamp(max=0.05) if tolerance is None else rare.new_full(units, tolerance)
    below, above, reached = _neighbours(z, target, allowed)
    thresholds = (above + below) / 2
    misses = (reached - target.unsqueeze(-2)).abs()
    misses.masked_fill_((below >= thresholds) | (thresholds >= above), torch.inf)
    least, best = misses.min(-2, keepdim=True)
    if (missed := least.squeeze(-2) > allowed).any():
        raise ValueError(_unreachable(z, target, missed))
    thresholds = thresholds.gather(-2, best).squeeze(-2)
    moved = (bias - thresholds).to(bias.dtype)
    if bias.dtype.itemsize < 4:  # and may be coarser than the rows
        share = (z > (bias.to(z) - moved.to(z)).unsqueeze(-2)).to(z).mean(-2)
        if ((share - target).abs() > 2 * allowed).any():
            got = f"got {bias.dtype}, in which a unit would be active on {share.max().item():.3g}"
            raise ValueError(
                f"bias must be finer for rho = {target.min().item():.3g}, {got}: {_FINE}"
            )
    torch.clear_autocast_cache()  # or the rest of an autocast block would use the bias as it was
    return bias.copy_(moved)


# What an error advises where a half-precision number is too coarse.
_FINE = "keep the weights in float32; under torch.autocast they are used in half precision"


def _neighbours(z: Tensor, target: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbouring values (..., K, L) near the quantile, and the shares (K, 1) above the lower one.

    From that end of the rows which is nearer, as a full sort takes many times as long.
    """
    rows, from_above = z.shape[-2], not bool((target > 0.5).all())
    counted = target if from_above else 1 - target
    fewest = max(1, math.floor(rows * float((counted - allowed).min())))
    most = min(rows - 1, max(fewest, math.ceil(rows * float((counted + allowed).max()))))
    values = z.topk(most + 1, dim=-2, largest=from_above).values[..., fewest - 1 :, :]
    counts = torch.arange(fewest, most + 1, device=z.device)
    # Upwards, so that of two shares that are as near the larger one is taken.
    values, active = (values.flip(-2), counts.flip(0)) if from_above else (values, rows - counts)
    return values[..., :-1, :], values[..., 1:, :], active[:, None] / rows


def _unreachable(z: Tensor, target: Tensor, missed: Tensor) -> str:
    unit = tuple(missed.nonzero()[0].tolist())
    rows, wanted = f"the {z.shape[-2]} rows of pre_activations", target[unit].item()
    where = f"unit {unit if len(unit) > 1 else unit[0]}"
    values, counts = z[(*unit[:-1], slice(None), unit[-1])].unique(return_counts=True)
    if len(values) == 1:
        return f"{where} does not vary over {rows}: no bias helps"
    reached = counts.flip(0).cumsum(0)[:-1] / z.shape[-2]
    nearest = reached[(reached - wanted).abs().argmin()].item()
    enough = math.ceil(100 * abs(nearest - wanted)) / 100
    return (
        f"{where} cannot be active on a share rho = {wanted:.3g} of {rows}: with ties and so many "
        f"rows, the nearest share is {nearest:.3g}. Give more rows, or allow it with "
        f"tolerance={enough:g}"
    )


@torch.no_grad()
def unit_spread_(layer: nn.Linear, pre_activations: Tensor) -> nn.Linear:
    """Scale the rows of `layer` so that each unit's pre-activations have a spread of 1.

    One temperature then suits all of its units. Weight and bias (if any) are scaled alike, so that
    each unit's frequency stays as it is. `pre_activations`, (B, L), are what the layer returns on
    many rows, over which each unit varies. Source: Mishkin and Matas 2016 (LSUV), arXiv 1511.06422.

    Example:
        >>> layer, x = nn.Linear(3, 2), torch.randn(100, 3)
        >>> torch.allclose(unit_spread_(layer, layer(x))(x).std(0), torch.ones(2))
        True
    """
    _check_rows("pre_activations", pre_activations, layer, "out_features", "the layer's units")
    scale_rows(layer, spread_of(pre_activations))
    return layer


def _check_rows(name: str, rows: Tensor, layer: object, width: str, whose: str) -> None:
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"layer must be an nn.Linear, got {type(layer).__name__}")
    check_finite(name, check_tensor(name, rows, dims=2, rows=2))
    size, shape = getattr(layer, width), tuple(rows.shape)
    if shape[1:] != (size,):
        raise ValueError(f"{name} must have the shape (B, {size}) of {whose}, got {shape}")


def spread_of(pre_activations: Tensor) -> Tensor:
    """Standard deviation of each unit over the rows; an error for a unit that is constant."""
    spread = pre_activations.std(0)
    # Relative to the values, as a constant unit's computed spread is rounding, not 0.
    least = 10 * torch.finfo(spread.dtype).eps * pre_activations.abs().amax(0)
    if (constant := spread <= least).any():
        unit, rows = int(constant.nonzero()[0]), len(pre_activations)
        raise ValueError(f"unit {unit} does not vary over the {rows} rows of pre_activations")
    return spread


def scale_rows(layer: nn.Linear, spread: Tensor) -> None:
    """Divide the weight (L, ...) and the bias of a layer, per unit, by the unit's spread."""
    torch.clear_autocast_cache()
    layer.weight.div_(spread.view(-1, *[1] * (layer.weight.ndim - 1)))
    if layer.bias is not None:
        layer.bias.div_(spread)


# An iteration takes 20 to 100 steps as a rule; the slowest of 512 on the days took 1190. A large
# problem gets fewer starts, then fewer steps: so many multiplications take about a minute.
_STARTS, _STEPS, _ENOUGH_STEPS, _MULTIPLICATIONS = 8, 2000, 100, 1e11


@torch.no_grad()
def skewed_units_(layer: nn.Linear, inputs: Tensor) -> nn.Linear:
    """Turn the units of `layer` to uncorrelated directions with a long tail upwards.

    This is independent component analysis (ICA): FastICA for all units at once, with the square as
    its nonlinearity, which is the one for skewness (Hyvärinen and Oja 2000). Where rows are made of
    rare additive causes, the directions are those of the causes. The first L principal components
    are scaled to a spread of 1, and rotated so that the sum of the units' mean z^3 is largest: the
    best end of 8 rotations from a fixed seed, or of fewer, where it would take minutes. Afterwards
    each unit has a spread of 1 and, given a bias, a mean of 0; no two are correlated, and the most
    skewed comes first.

    Args:
        layer: its weight (L, D) and bias (L,), if it has one, are changed in place.
        inputs: (B, D), what the layer is given, on many rows; they vary in L directions or more.

    Example:
        >>> causes = (torch.rand(2000, 3) < 0.1).float()  # rare, and mixed:
        >>> inputs = causes @ torch.tensor([[1.0, 2.0, 0.0], [0.5, 1.0, 3.0], [2.0, 1.0, 1.0]])
        >>> z = skewed_units_(nn.Linear(3, 3), inputs)(inputs)
        >>> sorted(((z > 1).float().T @ causes).argmax(0).tolist())  # the unit of each cause
        [0, 1, 2]
    """
    _check_rows("inputs", inputs, layer, "in_features", "what the layer is given")
    units = layer.out_features
    exact = inputs.to("cpu", torch.float64)  # which not every device has
    if (varying := varying_directions(inputs)) < units:
        got = f"got {varying}: give more rows, or leave the units as they are (skewed=False)"
        needed = f"at least as many directions as the layer has units, {units}"
        raise ValueError(f"inputs must vary in {needed}, {got}")
    mean = exact.mean(0)
    # The first principal axes, scaled so that the rows have a spread of 1 there.
    _, sizes, axes = torch.linalg.svd(exact - mean, full_matrices=False)
    whiten = (len(exact) ** 0.5 / sizes[:units])[:, None] * axes[:units]  # (L, D)
    z = (exact - mean) @ whiten.T  # (B, L)
    generator = torch.Generator().manual_seed(0)
    in_all = int(_MULTIPLICATIONS / _per_step(len(z), units))
    starts = min(_STARTS, max(1, in_all // _ENOUGH_STEPS))
    draws = torch.randn(starts, units, units, generator=generator, device="cpu")
    steps = min(_STEPS, max(20, in_all // starts))
    ends = [_climb(z, torch.linalg.qr(draw)[0], steps) for draw in draws.double()]
    rotation = max(ends, key=lambda end: float(_skewness(z, end).sum()))
    # In an order that does not depend on which start found them.
    rotation = rotation[_skewness(z, rotation).argsort(descending=True)]
    weight = rotation @ whiten
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(-weight @ mean)
    return layer


def can_be_skewed(inputs: Tensor, units: int) -> bool:
    """Whether the rows (B, D) vary in so many directions, and finding them takes no minutes."""
    (rows, columns), least = inputs.shape, _ENOUGH_STEPS * _per_step(len(inputs), units)
    if units > min(rows - 1, columns) or rows * columns**2 + least > _MULTIPLICATIONS:
        return False
    return units <= varying_directions(inputs)


def _per_step(rows: int, units: int) -> float:
    return 2.0 * rows * units**2 + 20.0 * units**3  # two products, and a decomposition


@torch.no_grad()
def varying_directions(inputs: Tensor) -> int:
    """In how many directions the rows of inputs (B, D) vary: how many units can be skewed."""
    exact = inputs.to("cpu", torch.float64)
    sizes = torch.linalg.svdvals(exact - exact.mean(0))
    rounding = max(torch.finfo(inputs.dtype).eps, 1e-9) * float(exact.norm())
    least = max(1e-6 * float(sizes[0]), rounding)  # rows are float32 as a rule
    return int((sizes > least).sum())


def _skewness(z: Tensor, rotation: Tensor) -> Tensor:
    return (z @ rotation.T).pow(3).mean(0)  # (L,)


def _climb(z: Tensor, rotation: Tensor, steps: int) -> Tensor:
    """A local maximum (L, L) of the summed skewness, reached from `rotation` in so many steps."""
    # Alone the iteration may circle near a maximum: half of the last rotation holds it back.
    for _ in range(steps):
        gradient = (z @ rotation.T).square().T @ z / len(z)
        left, _, right = torch.linalg.svd(gradient + 0.5 * rotation)
        last, rotation = rotation, left @ right  # the orthogonal matrix nearest to that sum
        if (rotation - last).abs().max() < 1e-9:
            break
    return rotation
