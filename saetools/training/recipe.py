"""The series' recipe: units that fire as often as asked, from every seed."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from saetools.data.checks import check_count
from saetools.initialise import target_frequency_
from saetools.penalties import frequency_penalty
from saetools.training.bookkeeping import History, Penalty, Weight
from saetools.training.checkpoints import Checkpoint
from saetools.training.ensemble import check_ensemble, train_ensemble
from saetools.training.files import FilePath, checked_path
from saetools.training.identity import Facts, identity
from saetools.training.models import Output, SparseAutoencoder
from saetools.training.start import check_models_and_rows, start_at_frequency_


class RecipeOptions(TypedDict, total=False):
    """What may be changed of the recipe's training; each as for `train_ensemble`."""

    steps: int  # of all phases together, 4 or more; 3500 by default
    weight: Weight  # 0.2 by default
    lr: float | Sequence[float]  # the largest learning rate; 1.5e-3 by default
    batch_size: int
    seeds: Sequence[int] | None
    value_range: tuple[float, float] | None
    observe: Callable[[nn.Module], Any] | None
    observe_every: int
    progress: bool
    compile: bool
    checkpoint: FilePath | Checkpoint | None
    checkpoint_every: int


_DEFAULTS: RecipeOptions = {"steps": 3500, "weight": 0.2, "lr": 1.5e-3}


def train_at_frequency(
    models: Sequence[SparseAutoencoder],
    x: Tensor,
    *,
    rho: float | Tensor,
    skewed: bool = True,
    tolerance: float = 0.05,
    **options: Unpack[RecipeOptions],
) -> History:
    """Initialise and train models in place, so that each unit is active on a share rho of x.

    `start_at_frequency_`, and `learn_shift_hold` with `frequency_penalty`. After an error the
    models are as they were.

    Args:
        models: one or more of one shape, as for `train_ensemble`.
        x: training rows (rows, D) in [0, 1], on the models' device.
        rho: target frequency, in (0, 1); a tensor (L,) for one per unit.
        skewed: as for `start_at_frequency_`.
        tolerance: as for `target_frequency_`, at the start and at the shift.
        options: steps (3500), weight (0.2), lr (1.5e-3), batch_size, seeds, value_range, observe,
            observe_every, progress, compile, checkpoint, checkpoint_every, as for
            `learn_shift_hold`.

    Returns:
        History of all steps.

    Raises:
        TypeError, ValueError: for a wrong argument; or if a unit cannot reach rho.

    Example:
        >>> from saetools import evaluate, sparse_mixture
        >>> model, x = SparseAutoencoder(seed=0), sparse_mixture(1000, seed=0).train
        >>> history = train_at_frequency([model], x, rho=0.15, steps=70)
        >>> bool(((evaluate(model, x).frequency - 0.15).abs() < 0.1).all())
        True
    """
    facts = _checked_identity(dict(locals()))
    if options.get("checkpoint") is not None:
        options["checkpoint"] = Checkpoint(options["checkpoint"], facts)  # type: ignore[arg-type]

    def penalty(output: Output) -> Tensor:
        return frequency_penalty(output.pre_activations, rho=rho, dim=-2)

    with _as_they_were_on_error(models):
        start_at_frequency_(models, x, rho=rho, skewed=skewed, tolerance=tolerance)
        return learn_shift_hold(models, x, penalty, rho=rho, tolerance=tolerance, **options)


def learn_shift_hold(
    models: Sequence[SparseAutoencoder],
    x: Tensor,
    penalty: Penalty | None,
    *,
    rho: float | Tensor,
    tolerance: float = 0.05,
    **options: Unpack[RecipeOptions],
) -> History:
    """Train under a penalty, shift each unit to rho exactly, and let the decoder get used to it.

    *Learn*, five steps in seven: near the frequency, with a learning rate that rises evenly over
    the first two. *Shift*: `target_frequency_` moves each bias of the code, and its unit is at rho
    on x, but for ties. *Hold*, two steps in seven: the encoder is frozen, and the rate falls evenly
    to 0. After an error the models are as they were.

    Args:
        models: as for `train_ensemble`; changed in place.
        x: training rows (rows, D), on the models' device.
        penalty: as for `train_ensemble`.
        rho: what the units are shifted to, in (0, 1); a tensor (L,) for one per unit.
        tolerance: as for `target_frequency_`.
        options: as for `train_ensemble`, but for the scheduler: `steps` counts both phases, 4 or
            more (3500), `weight` is the penalty's (0.2), `lr` the largest learning rate (1.5e-3);
            `observe` is called both before and after the shift, and of a checkpoint each phase
            has a file of its own, with "-learn" or "-hold" in its name before the suffix.

    Returns:
        History of both phases, one after the other.

    Raises:
        TypeError, ValueError: for a wrong argument; or if a unit cannot reach rho.

    Example:
        >>> models = start_at_frequency_([SparseAutoencoder(seed=0)], torch.rand(64, 20), rho=0.2)
        >>> learn_shift_hold(models, torch.rand(64, 20), None, rho=0.2, steps=7).error.shape
        torch.Size([7, 1])
    """
    facts = _checked_identity(dict(locals()))
    given: dict[str, Any] = {**_DEFAULTS, **options}
    steps, checkpoint = given.pop("steps"), given.pop("checkpoint", None)
    learning = steps * 5 // 7
    holding = steps - learning

    def rising(adam: Optimizer) -> LRScheduler:
        return LinearLR(adam, 1.0 / holding, 1.0, holding)  # and constant after that

    def falling(adam: Optimizer) -> LRScheduler:
        return LinearLR(adam, 1.0, 0.0, holding)

    phase: dict[str, Any] = {"steps": learning, "scheduler": rising}
    phase["checkpoint"] = _file_of("learn", checkpoint, facts)
    with _as_they_were_on_error(models):
        learned = train_ensemble(models, x, penalty, **given, **phase)
        shift_to_frequency_(models, x, rho=rho, tolerance=tolerance)
        phase = {"steps": holding, "scheduler": falling}
        phase["checkpoint"] = _file_of("hold", checkpoint, facts)
        with _frozen([model.encoder for model in models]):
            held = train_ensemble(models, x, **given, **phase)
    return History(
        torch.cat([learned.error, held.error]),
        torch.cat([learned.penalty, held.penalty]),
        learned.observations + [(learning + step, seen) for step, seen in held.observations],
    )


@torch.no_grad()
def shift_to_frequency_(
    models: Sequence[SparseAutoencoder], x: Tensor, *, rho: float | Tensor, tolerance: float
) -> None:
    """`target_frequency_` on the code of each model."""
    for model in models:
        bias = model.encoder[-1].bias
        target_frequency_(bias, model.encode(x), rho, tolerance=tolerance)  # type: ignore[arg-type]


def _checked_identity(call: dict[str, Any]) -> Facts:
    """What a training is known by, if nothing in its call is wrong."""
    options = call["options"]
    for name in options:
        if name not in RecipeOptions.__annotations__:
            near = difflib.get_close_matches(name, RecipeOptions.__annotations__, 1, cutoff=0.5)
            meant = f"did you mean {near[0]}? " if near else ""
            raise TypeError(
                f"there is no option {name!r}: {meant}The options are "
                f"{', '.join(RecipeOptions.__annotations__)}"
            )
    call = {**call, "options": {**_DEFAULTS, **options}}
    check_models_and_rows(call["models"], call["x"], call["rho"])
    check_count("steps", call["options"]["steps"], minimum=4)
    if options.get("checkpoint") is not None:
        if isinstance(options["checkpoint"], Checkpoint):  # known by the call around this one
            return options["checkpoint"].identity
        checked_path(options["checkpoint"])
    settings = dict.fromkeys(("batch_size", "observe_every", "checkpoint_every"), 1)
    given = {"observe": None, "checkpoint": None, **settings, **call["options"]}
    check_ensemble(models=call["models"], x=call["x"], **given)
    return identity(call)


def _file_of(phase: str, checkpoint: Any, facts: Facts) -> Checkpoint | None:
    if checkpoint is None:
        return None
    path = Path(checkpoint.path if isinstance(checkpoint, Checkpoint) else checkpoint)
    return Checkpoint(path.with_name(f"{path.stem}-{phase}{path.suffix}"), facts | {"phase": phase})


@contextmanager
def _as_they_were_on_error(models: Sequence[nn.Module]) -> Iterator[None]:
    """Give the models their weights back if the block does not end well."""
    before = [[weight.detach().clone() for weight in model.parameters()] for model in models]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for model, weights in zip(models, before, strict=True):
                for weight, old in zip(model.parameters(), weights, strict=True):
                    weight.copy_(old)
        raise


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
