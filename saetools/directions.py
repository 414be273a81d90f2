"""Which directions the units of a code start in: those in which the data are skewed."""

import torch
from torch import Tensor, nn

from saetools._checks import check_count, check_finite, check_tensor

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
