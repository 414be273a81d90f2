"""The series' recipe as one call: units that fire as often as asked, from every seed."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from saetools.data.checks import check_count
from saetools.initialise import target_frequency_
from saetools.penalties import frequency_penalty
from saetools.training.ensemble import EnsembleHistory, train_ensemble
from saetools.training.files import FilePath
from saetools.training.loop import Penalty
from saetools.training.models import Output, SparseAutoencoder
from saetools.training.start import check_models_and_rows, start_at_frequency_


def train_at_frequency(
    models: Sequence[SparseAutoencoder],
    x: Tensor,
    *,
    rho: float | Tensor,
    skewed: bool = True,
    tolerance: float = 0.05,
    **options: Any,
) -> EnsembleHistory:
    """Initialise and train models in place, so that each unit is active on a share rho of x.

    `start_at_frequency_`, and `learn_shift_hold` with `frequency_penalty`.

    Args:
        models: one or more of one shape, as for `train_ensemble`.
        x: the training rows (rows, D) in [0, 1], on the models' device.
        rho: target frequency, in (0, 1); a tensor (L,) for one a unit.
        skewed: as for `start_at_frequency_`.
        tolerance: as for `target_frequency_`, at the start and at the shift.
        options: passed on to `learn_shift_hold`: steps, lr, batch_size, seeds, progress and more.

    Returns:
        EnsembleHistory of all steps.

    Raises:
        TypeError, ValueError: as `start_at_frequency_` and `learn_shift_hold` do.

    Example:
        >>> from saetools import evaluate, sparse_mixture
        >>> model, x = SparseAutoencoder(seed=0), sparse_mixture(1000, seed=0).train
        >>> history = train_at_frequency([model], x, rho=0.15, steps=70)
        >>> bool(((evaluate(model, x).frequency - 0.15).abs() < 0.1).all())
        True
    """
    start_at_frequency_(models, x, rho=rho, skewed=skewed, tolerance=tolerance)

    def penalty(output: Output) -> Tensor:
        return frequency_penalty(output.pre_activations, rho=rho, dim=-2)

    return learn_shift_hold(models, x, penalty, rho=rho, tolerance=tolerance, **options)


def learn_shift_hold(
    models: Sequence[SparseAutoencoder],
    x: Tensor,
    penalty: Penalty | None,
    *,
    rho: float | Tensor,
    steps: int = 3500,
    weight: float = 0.2,
    lr: float = 1.5e-3,
    checkpoint: FilePath | None = None,
    tolerance: float = 0.05,
    **options: Any,
) -> EnsembleHistory:
    """Train under a penalty, shift each unit to rho exactly, and let the decoder get used to it.

    Five steps in seven learn a code near the frequency, with a learning rate that rises evenly
    over the first two. Then `target_frequency_` shifts each bias of the code, and its unit is at
    rho on x, but for ties. In the last two steps in seven the encoder is frozen, and the rate
    falls evenly to 0.

    Args:
        models: as for `train_ensemble`; changed in place.
        x: the training rows (rows, D), on the models' device.
        penalty: as for `train_ensemble`.
        rho: what the units are shifted to, in (0, 1); a tensor (L,) for one a unit.
        steps: how many batches to train on, both phases together, 4 or more.
        weight: of the penalty.
        lr: the largest learning rate.
        checkpoint: as for `train_ensemble`; each phase has a file of its own, with "-learn" or
            "-hold" in its name before the suffix.
        tolerance: as for `target_frequency_`.
        options: passed on to `train_ensemble`.

    Returns:
        EnsembleHistory of both phases, one after the other; its table is the second's, and
        `observe` is called both before and after the shift.

    Raises:
        TypeError, ValueError: as `target_frequency_` and `train_ensemble` do.

    Example:
        >>> models = start_at_frequency_([SparseAutoencoder(seed=0)], torch.rand(64, 20), rho=0.2)
        >>> learn_shift_hold(models, torch.rand(64, 20), None, rho=0.2, steps=7).error.shape
        torch.Size([7, 1])
    """
    check_models_and_rows(models, x, rho)
    first = check_count("steps", steps, minimum=4) * 5 // 7
    second = steps - first
    files = [None if checkpoint is None else _named(checkpoint, end) for end in ("learn", "hold")]

    def rising(adam: Optimizer) -> LRScheduler:
        return LinearLR(adam, 1.0 / second, 1.0, second)  # and constant after that

    def falling(adam: Optimizer) -> LRScheduler:
        return LinearLR(adam, 1.0, 0.0, second)

    learned = train_ensemble(
        models,
        x,
        penalty,
        steps=first,
        weight=weight,
        lr=lr,
        scheduler=rising,
        checkpoint=files[0],
        **options,
    )
    with torch.no_grad():
        for model in models:
            bias, pre_activations = model.encoder[-1].bias, model.encode(x)
            target_frequency_(bias, pre_activations, rho, tolerance=tolerance)  # type: ignore[arg-type]
    with _frozen([model.encoder for model in models]):
        held = train_ensemble(
            models, x, steps=second, lr=lr, scheduler=falling, checkpoint=files[1], **options
        )
    return EnsembleHistory(
        torch.cat([learned.error, held.error]),
        torch.cat([learned.penalty, held.penalty]),
        learned.observations + [(first + step, seen) for step, seen in held.observations],
        held.table,
    )


def _named(path: FilePath, end: str) -> Path:
    path = Path(path)
    return path.with_name(f"{path.stem}-{end}{path.suffix}")


@contextmanager
def _frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Keep their parameters from training."""
    learnable = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in learnable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learnable:
            parameter.requires_grad_(True)
