"""Where a model starts: each unit of its code at the asked frequency, from data."""

from collections.abc import Sequence

import torch
from torch import Tensor

from saetools.data.checks import check_finite, check_like, check_rho, check_tensor
from saetools.initialise import scale_rows, skewed_units_, spread_of, target_frequency_
from saetools.training.models import SparseAutoencoder
from saetools.training.stacking import check_models


@torch.no_grad()
def initialise_for_frequency_(
    model: SparseAutoencoder, x: Tensor, *, rho: float | Tensor, tolerance: float = 0.05
) -> SparseAutoencoder:
    """Make each unit of the code active on a share rho of the rows of x, with a spread of 1.

    One forward pass; `unit_spread_` and `target_frequency_` on the code's layer. The other
    layers keep their weights.

    Args:
        model: changed in place, and returned.
        x: (B, D), many training rows, on the model's device.
        rho, tolerance: as for `target_frequency_`.

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
    pre_activations = model.encode(x)
    spread = spread_of(pre_activations)  # before anything is changed; a shift leaves it as it is
    target_frequency_(model.code.bias, pre_activations, rho, tolerance=tolerance)
    scale_rows(model.code, spread)
    return model


def start_at_frequency_(
    models: Sequence[SparseAutoencoder],
    x: Tensor,
    *,
    rho: float | Tensor,
    skewed: bool = True,
    tolerance: float = 0.05,
) -> Sequence[SparseAutoencoder]:
    """`skewed_units_` and `initialise_for_frequency_` on the code of each model.

    Args:
        models: changed in place, and returned.
        x, rho, tolerance: as for `initialise_for_frequency_`.
        skewed: False leaves the units' directions as they are, as a code must that has more
            units than its inputs have directions.

    Example:
        >>> from saetools import evaluate
        >>> x = torch.rand(100, 20)
        >>> [model] = start_at_frequency_([SparseAutoencoder(seed=0)], x, rho=0.2)
        >>> evaluate(model, x).frequency
        tensor([0.2000, 0.2000, 0.2000, 0.2000])
    """
    check_models_and_rows(models, x, rho)
    for model in models:
        if skewed:
            skewed_units_(model.code, model.code_inputs(x))
        initialise_for_frequency_(model, x, rho=rho, tolerance=tolerance)
    return models


def check_models_and_rows(models: object, x: Tensor, rho: float | Tensor) -> None:
    """Raise for what would otherwise show late, or with models changed half-way."""
    check_models(models)
    check_tensor("x", x, dims=2, rows=2)
    for model in models:  # type: ignore[attr-defined]
        check_like("x", x, model)
    check_finite("x", x)
    check_rho(rho, like=x)
