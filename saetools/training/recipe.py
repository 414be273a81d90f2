"""The series' recipe: units that fire as often as asked, from every seed."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR

from saetools.data.checks import check_count, check_rho, check_rows
from saetools.frequency import activation_frequency
from saetools.initialise import target_frequency_
from saetools.training.checkpoints import Checkpoint, FilePath, History, checked_path
from saetools.training.ensemble import check_ensemble, train_ensemble
from saetools.training.guards import Weight
from saetools.training.identity import identity
from saetools.training.loop import Penalty
from saetools.training.models import SparseAutoencoder
from saetools.training.multipliers import FrequencyMultipliers
from saetools.training.progress import Bar, Miss
from saetools.training.rows import warn_if_worthless
from saetools.training.start import encode_exactly, restored, start_at_frequency_


class RecipeOptions(TypedDict, total=False):
    """What may be changed of the recipe's training; each as for `train_ensemble`."""

    steps: int  # of both phases together, 4 or more
    weight: Weight
    lr: float
    batch_size: int
    seeds: Sequence[int] | None
    value_range: tuple[float, float] | None
    observe: Callable[..., Any] | None  # before and after the shift
    observe_every: int
    progress: bool | Bar  # one bar: error, penalty, and how far the worst unit is
    compile: bool
    checkpoint: FilePath | Checkpoint | None  # a file per phase: "-learn" or "-hold" in its name
    checkpoint_every: int


# What the recipe learns under, and how firmly.
DEFAULTS: RecipeOptions = {"steps": 3500, "weight": 0.2, "lr": 1.5e-3, "checkpoint": None}


def recommended(rho: float | Tensor) -> Penalty:
    """The recipe's penalty: `frequency_penalty`, and multipliers for what it leaves of a miss."""
    return FrequencyMultipliers(rho=rho, rate=0.015, damping=0.0, divergence=1.0)


def train_at_frequency(
    models: SparseAutoencoder | Sequence[SparseAutoencoder],
    x: Tensor,
    *,
    rho: float | Tensor,
    skewed: bool | None = None,
    tolerance: float | None = None,
    **options: Unpack[RecipeOptions],
) -> History:
    """Initialise and train models in place, so that each unit is active on a share rho of x.

    `start_at_frequency_`, and `learn_shift_hold` with `FrequencyMultipliers` around the KL of
    `frequency_penalty`. After an error, such as a unit that cannot reach rho, the models are as
    they were.

    Args:
        models: one, or as for `train_ensemble`; the history of one is (steps,), as from `train`.
        x, skewed, tolerance: as for `start_at_frequency_` and `train_ensemble`.
        rho: target frequency, in (0, 1); a tensor (L,) for one per unit.
        options: of `RecipeOptions`, by default steps=3500, weight=0.2, lr=1.5e-3.

    Example:
        >>> from saetools import activation_frequency, sparse_mixture
        >>> model, x = SparseAutoencoder(seed=0), sparse_mixture(1000, seed=0).train
        >>> history = train_at_frequency([model], x, rho=0.15, steps=70)
        >>> bool(((activation_frequency(model.encode(x)) - 0.15).abs() < 0.1).all())
        True
    """
    options["checkpoint"] = _checked(dict(locals()))
    members = _listed(models)
    with restored(members):
        start_at_frequency_(members, x, rho=rho, skewed=skewed, tolerance=tolerance)
        penalty = recommended(rho)
        return learn_shift_hold(models, x, penalty, rho=rho, tolerance=tolerance, **options)


def learn_shift_hold(
    models: SparseAutoencoder | Sequence[SparseAutoencoder],
    x: Tensor,
    penalty: Penalty | None,
    *,
    rho: float | Tensor,
    tolerance: float | None = None,
    **options: Unpack[RecipeOptions],
) -> History:
    """Train under a penalty, shift each unit to rho exactly, and let the decoder get used to it.

    *Learn*, five steps in seven: near the frequency, with a learning rate that rises evenly over
    the first two. *Shift*: `target_frequency_` moves each bias of the code, and its unit is at rho
    on x, but for ties. *Hold*, two steps in seven: the encoder is frozen, and the rate falls evenly
    to 0. The penalty is as for `train_ensemble`, all else as for `train_at_frequency`.

    Example:
        >>> models = start_at_frequency_([SparseAutoencoder(seed=0)], torch.rand(64, 20), rho=0.2)
        >>> learn_shift_hold(models, torch.rand(64, 20), None, rho=0.2, steps=7).error.shape
        torch.Size([7, 1])
    """
    options["checkpoint"] = _checked(dict(locals()))
    members, every = _listed(models), max(1, len(x) // 1000)

    def miss(ensemble: nn.Module) -> Tensor:
        frequency = activation_frequency(ensemble(x[::every]).pre_activations)
        return frequency - check_rho(rho, like=frequency)

    def shift() -> Iterator[nn.Parameter]:
        for model in members:
            target_frequency_(model.code.bias, encode_exactly(model, x), rho, tolerance=tolerance)
            yield from model.encoder.parameters()
            if model.centred:
                yield model.decoder[-1].bias

    with restored(members):
        history = in_phases(partial(train_ensemble, members, x), penalty, shift, miss, options)
    if options.get("value_range", ()) is not None:  # as train_ensemble says it by itself else
        warn_if_worthless(history.error, x)
    if members is models:
        return history
    return history._replace(error=history.error[:, 0], penalty=history.penalty[:, 0])


def in_phases(
    train: Callable[..., History],
    penalty: Penalty | None,
    shift: Callable[[], Iterable[nn.Parameter]],
    miss: Miss,
    options: Mapping[str, Any],
) -> History:
    """Learn, shift and hold, by `train`; `shift` yields the parameters that are held after it."""
    given: dict[str, Any] = {**DEFAULTS, **options}
    steps, checkpoint = given.pop("steps"), given.pop("checkpoint")
    learning, holding = steps * 5 // 7, steps - steps * 5 // 7
    rate = partial(LinearLR, total_iters=holding)  # constant after that
    rising = partial(rate, start_factor=1.0 / holding, end_factor=1.0)
    falling = partial(rate, start_factor=1.0, end_factor=0.0)
    if given.get("progress"):
        given["progress"] = Bar(steps, miss)
    file = _of_phase("learn", checkpoint)
    learned = train(penalty, steps=learning, scheduler=rising, checkpoint=file, **given)
    with torch.no_grad():
        held_back = list(shift())
    for parameter in held_back:
        parameter.requires_grad_(False)
    file = _of_phase("hold", checkpoint)
    held = train(None, steps=holding, scheduler=falling, checkpoint=file, **given)
    return History(
        torch.cat([learned.error, held.error]),
        torch.cat([learned.penalty, held.penalty]),
        learned.observations + [(learning + step, seen) for step, seen in held.observations],
    )


def _checked(call: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint of a training, which is known by its call, if nothing in the call is wrong."""
    known = list(RecipeOptions.__annotations__)
    for name in call["options"].keys() - set(known):
        near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        meant = f"did you mean {near[0]}? " if near else ""
        raise TypeError(f"there is no option {name!r}: {meant}The options are {', '.join(known)}")
    options: dict[str, Any] = {**DEFAULTS, **call["options"]}
    call = {**call, "models": _listed(call["models"])}
    check_count("steps", options["steps"], minimum=4)
    check_ensemble({**(train_ensemble.__kwdefaults__ or {}), **call, **options})
    for model in call["models"]:
        if model.activation is not torch.relu:
            only = f"torch.relu, whose biases are shifted, got {model.activation!r}"
            raise ValueError(f"activation of the models must be {only}: use train_ensemble")
    check_rho(call["rho"], like=check_rows("x", call["x"], least=2))
    file = options["checkpoint"]
    if file is None or isinstance(file, Checkpoint):  # known by the call around this one
        return file
    return Checkpoint(checked_path(file), identity({**call, "options": options}))


def _listed(models: Any) -> Any:
    return [models] if isinstance(models, nn.Module) else models


def _of_phase(phase: str, checkpoint: Checkpoint | None) -> Checkpoint | None:
    if checkpoint is None:
        return None
    path = Path(checkpoint.path)
    name = f"{path.stem}-{phase}{path.suffix}"
    return Checkpoint(path.with_name(name), checkpoint.identity | {"phase": phase})
