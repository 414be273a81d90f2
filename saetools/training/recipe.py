"""The series' recipe: units that fire as often as asked, from every seed."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR

from saetools.data.checks import check_count
from saetools.initialise import target_frequency_
from saetools.penalties import frequency_penalty
from saetools.training.bookkeeping import Penalty, Weight
from saetools.training.checkpoints import Checkpoint, History
from saetools.training.ensemble import check_ensemble, train_ensemble
from saetools.training.files import FilePath, checked_path
from saetools.training.identity import Facts, identity
from saetools.training.models import Output, SparseAutoencoder
from saetools.training.start import check_models_and_rows, start_at_frequency_


class RecipeOptions(TypedDict, total=False):
    """What may be changed of the recipe's training; each as for `train_ensemble`."""

    steps: int  # of both phases together, 4 or more; 3500 by default
    weight: Weight  # 0.2 by default
    lr: float  # the largest learning rate; 1.5e-3 by default
    batch_size: int
    seeds: Sequence[int] | None
    value_range: tuple[float, float] | None
    observe: Callable[[nn.Module], Any] | None  # before and after the shift
    observe_every: int
    progress: bool
    compile: bool
    checkpoint: FilePath | Checkpoint | None  # a file per phase: "-learn" or "-hold" in its name
    checkpoint_every: int


_DEFAULTS: RecipeOptions = {"steps": 3500, "weight": 0.2, "lr": 1.5e-3, "checkpoint": None}


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
        options: of `RecipeOptions`: steps (3500), weight (0.2), lr (1.5e-3), batch_size, seeds,
            value_range, observe, observe_every, progress, compile, checkpoint, checkpoint_every.

    Raises:
        TypeError, ValueError: for a wrong argument; or if a unit cannot reach rho.

    Example:
        >>> from saetools import evaluate, sparse_mixture
        >>> model, x = SparseAutoencoder(seed=0), sparse_mixture(1000, seed=0).train
        >>> history = train_at_frequency([model], x, rho=0.15, steps=70)
        >>> bool(((evaluate(model, x).frequency - 0.15).abs() < 0.1).all())
        True
    """
    known_by = _checked(dict(locals()))
    if options.get("checkpoint") is not None:
        options["checkpoint"] = Checkpoint(options["checkpoint"], known_by)  # type: ignore[arg-type]

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
        models, x, rho, tolerance, options: as for `train_at_frequency`.
        penalty: as for `train_ensemble`.

    Returns:
        History of both phases, one after the other.

    Example:
        >>> models = start_at_frequency_([SparseAutoencoder(seed=0)], torch.rand(64, 20), rho=0.2)
        >>> learn_shift_hold(models, torch.rand(64, 20), None, rho=0.2, steps=7).error.shape
        torch.Size([7, 1])
    """
    known_by = _checked(dict(locals()))
    given: dict[str, Any] = {**_DEFAULTS, **options}
    steps, file = given.pop("steps"), given.pop("checkpoint")
    learning = steps * 5 // 7
    holding = steps - learning

    def rising(adam: torch.optim.Optimizer) -> LinearLR:
        return LinearLR(adam, 1.0 / holding, 1.0, holding)  # and constant after that

    def falling(adam: torch.optim.Optimizer) -> LinearLR:
        return LinearLR(adam, 1.0, 0.0, holding)

    with _as_they_were_on_error(models):
        given["checkpoint"] = _of_phase("learn", file, known_by)
        learned = train_ensemble(models, x, penalty, steps=learning, scheduler=rising, **given)
        with torch.no_grad():
            for model in models:
                target_frequency_(model.code.bias, model.encode(x), rho, tolerance=tolerance)
        given["checkpoint"] = _of_phase("hold", file, known_by)
        encoders = [weight for model in models for weight in model.encoder.parameters()]
        learnable = [weight for weight in encoders if weight.requires_grad]
        try:
            for weight in learnable:
                weight.requires_grad_(False)
            held = train_ensemble(models, x, steps=holding, scheduler=falling, **given)
        finally:
            for weight in learnable:
                weight.requires_grad_(True)
    return History(
        torch.cat([learned.error, held.error]),
        torch.cat([learned.penalty, held.penalty]),
        learned.observations + [(learning + step, seen) for step, seen in held.observations],
    )


def _checked(call: dict[str, Any]) -> Facts:
    """What a training is known by, if nothing in its call is wrong."""
    known = list(RecipeOptions.__annotations__)
    for name in call["options"]:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
            meant = f"did you mean {near[0]}? " if near else ""
            raise TypeError(
                f"there is no option {name!r}: {meant}The options are {', '.join(known)}"
            )
    options = {**_DEFAULTS, **call["options"]}
    check_count("steps", options["steps"], minimum=4)
    check_models_and_rows(call["models"], call["x"], call["rho"])
    check_ensemble(models=call["models"], x=call["x"], **options)
    file = options["checkpoint"]
    if isinstance(file, Checkpoint):  # the training is known by the call around this one
        return file.identity
    if file is None:
        return {}
    checked_path(file)
    return identity({**call, "options": options})


def _of_phase(phase: str, file: Any, known_by: Facts) -> Checkpoint | None:
    if file is None:
        return None
    path = Path(file.path if isinstance(file, Checkpoint) else file)
    name = f"{path.stem}-{phase}{path.suffix}"
    return Checkpoint(path.with_name(name), known_by | {"phase": phase})


@contextmanager
def _as_they_were_on_error(models: Sequence[nn.Module]) -> Iterator[None]:
    """Give the models their weights back if the block does not end well."""
    weights = [weight for model in models for weight in model.parameters()]
    before = [weight.detach().clone() for weight in weights]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)
        raise
