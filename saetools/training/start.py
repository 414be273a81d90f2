"""Where a model starts: each unit of its code at the asked frequency, from data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from saetools.data.checks import check_finite, check_like, check_rho, check_rows
from saetools.initialise import (
    can_be_skewed,
    scale_rows,
    skewed_units_,
    spread_of,
    target_frequency_,
)
from saetools.training.models import SparseAutoencoder, check_autoencoder
from saetools.training.stacking import check_models


@torch.no_grad()
def initialise_for_frequency_(
    model: SparseAutoencoder, x: Tensor, *, rho: float | Tensor, tolerance: float | None = None
) -> SparseAutoencoder:
    """Make each unit of the code active on a share rho of the rows of x, with a spread of 1.

    `unit_spread_` and `target_frequency_` on the code's layer, which alone changes, but for an
    output without bounds: there the decoder's last bias becomes the mean of x, and the first layer
    of an encoder that has several sees centred rows. With a unit-norm decoder and no other hidden
    layer a unit's direction is the mean of the rows, weighted by how far they switch it on; such a
    code fits rows whose columns have a spread of about 1. x holds many training rows (B, D), on the
    model's device.

    Example:
        >>> from saetools import activation_frequency
        >>> model, x = SparseAutoencoder(seed=0), torch.rand(100, 20)
        >>> activation_frequency(initialise_for_frequency_(model, x, rho=0.2).encode(x))
        tensor([0.2000, 0.2000, 0.2000, 0.2000])
    """
    remedy = "for another one, use unit_spread_ and target_frequency_ on the layer of its code"
    check_autoencoder("model", model, remedy)
    check_finite("x", check_like("x", check_rows("x", x, least=2), model))
    if (dtype := model.code.weight.dtype).itemsize < 4:
        advice = "start and train it in float32, under torch.autocast to compute in half precision"
        raise ValueError(f"model must have weights that hold a threshold, got {dtype}: {advice}")
    with restored([model]):
        _centre(model, x)
        pre_activations = encode_exactly(model, x)
        spread = spread_of(pre_activations)  # which a shift leaves as it is
        target_frequency_(model.code.bias, pre_activations, rho, tolerance=tolerance)
        scale_rows(model.code, spread)
        if model.unit_norm_decoder and len(model.sizes) == 2:
            weight: Tensor = model.decoder[0].weight  # type: ignore[assignment]
            weight.copy_((x - x.mean(0)).T @ encode_exactly(model, x).relu())  # (D, L)
            model.normalise_()
    return model


@torch.no_grad()
def _centre(model: SparseAutoencoder, x: Tensor) -> None:
    """Where the output has no bounds, let the model begin at the mean of x, wherever that is."""
    mean = x.to(model.code.weight).mean(0)
    probe = mean.new_tensor([-2.0, 2.0])
    if not torch.equal(model.output(probe), probe):
        return
    first, last = model.encoder[0], model.decoder[-1]
    if isinstance(last, nn.Linear):
        last.bias.copy_(mean)
    hidden = first is not model.code  # the code's bias is the frequency's
    if isinstance(first, nn.Linear) and hidden and not model.centred:
        first.bias.copy_(-(first.weight * mean).sum(1))  # no product that autocast would round


@torch.no_grad()
def encode_exactly(model: SparseAutoencoder, x: Tensor) -> Tensor:
    """`model.encode` in the precision of its weights, inside a block of autocast as well."""
    with torch.autocast(x.device.type, enabled=False):
        return model.encode(x.to(model.code.weight.dtype))


def start_at_frequency_(
    models: Sequence[SparseAutoencoder],
    x: Tensor,
    *,
    rho: float | Tensor,
    skewed: bool | None = None,
    tolerance: float | None = None,
) -> Sequence[SparseAutoencoder]:
    """`skewed_units_` and `initialise_for_frequency_` on the code of each model.

    skewed=None leaves the units' directions as they are where the inputs of the code vary in fewer
    directions than it has units, or are so many that finding them would take minutes; True insists,
    and False leaves them in any case.

    Example:
        >>> [model] = start_at_frequency_([SparseAutoencoder(seed=0)], torch.rand(100, 20), rho=0.2)
    """
    check_models(models)
    check_rho(rho, like=check_finite("x", check_rows("x", x, least=2)))
    for model in models:  # before the first one changes
        check_like("x", x, model)
    for model in models:
        if skewed is not False:
            _centre(model, x)
            with torch.autocast(x.device.type, enabled=False):
                inputs = model.code_inputs(x.to(model.code.weight.dtype))
            if skewed or can_be_skewed(inputs, model.code.out_features):
                skewed_units_(model.code, inputs)
        initialise_for_frequency_(model, x, rho=rho, tolerance=tolerance)
    return models


@contextmanager
def restored(models: Sequence[nn.Module]) -> Iterator[None]:
    """Give models their weights back after an error, and in any case modes and what may learn."""
    modes = [(part, part.training) for model in models for part in model.modules()]
    weights = [w for model in models for w in (*model.parameters(), *model.buffers())]
    before = [(weight.detach().clone(), weight.requires_grad) for weight in weights]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for weight, (old, _) in zip(weights, before, strict=True):
                weight.copy_(old)
        raise
    finally:
        for weight, (_, learns) in zip(weights, before, strict=True):
            weight.requires_grad_(learns)
        for part, training in modes:
            part.training = training
