"""The recipe on a named layer of any model: start, learn, shift, hold."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.modules.batchnorm import _BatchNorm

from saetools.data.checks import check_count, check_function, check_returned, check_rho
from saetools.frequency import activation_frequency
from saetools.initialise import scale_rows, spread_of, target_frequency_
from saetools.metrics import evaluation_mode
from saetools.reuse.capture import Capture
from saetools.reuse.pooling import pool_rows
from saetools.training.checkpoints import Checkpoint, FilePath, History, checked_path
from saetools.training.guards import Weight, check_loop
from saetools.training.identity import identity
from saetools.training.loop import train
from saetools.training.multipliers import FrequencyMultipliers
from saetools.training.recipe import in_phases
from saetools.training.rows import one_pass
from saetools.training.start import restored

_MOST_VALUES = 2**25  # rows times units, which are sorted at once
_OPTIONS = ["steps", "weight", "batch_size", "lr", "seed", "observe", "observe_every", "progress"]
BatchLoss = Callable[[nn.Module, Any], Tensor]


class Units(NamedTuple):
    """What the penalty is given of a batch."""

    pre_activations: Tensor  # (rows, L), for a spread of 1 at the start


def reconstruction_error(model: nn.Module, batch: Tensor) -> Tensor:
    """The mean squared error of what a model returns for a batch, or of its `reconstruction`."""
    if not isinstance(batch, Tensor):
        raise ValueError(f"loss must be given for batches that are of {type(batch).__name__}")
    output = model(batch)
    output = getattr(output, "reconstruction", output)
    if (shape := getattr(output, "shape", None)) != batch.shape:
        shapes = f"{tuple(batch.shape)} to {type(output).__name__} {tuple(shape or ())}"
        raise ValueError(f"loss must be given for a model that turns a batch {shapes}")
    return mse_loss(output, batch)


def train_layer_at_frequency(
    model: nn.Module,
    x: Tensor | Iterable[Any],
    *,
    layer: str,
    rho: float | Tensor,
    loss: BatchLoss = reconstruction_error,
    mask: Callable[[Any], Tensor] | None = None,
    tolerance: float | None = None,
    steps: int = 3500,
    weight: Weight = 1.0,
    batch_size: int = 128,
    lr: float = 1.5e-3,
    seed: int = 0,
    observe: Callable[..., Any] | None = None,
    observe_every: int = 100,
    progress: bool = False,
    checkpoint: FilePath | None = None,
    checkpoint_every: int = 500,
) -> History:
    """Train any model in place, so that each unit of a layer is active on a share rho of the rows.

    `train_at_frequency` for other people's models. *Start*: the layer is scaled and shifted, for
    a spread of 1 at rho. *Learn*, under `FrequencyMultipliers`, as no weight suits every loss.
    *Shift* to rho again, in evaluation mode. *Hold*: what the layer's values depend on is frozen
    (so is a tied decoder's weight, and what batch norms track), and the rest gets used to it.
    Global random generators are used as the model and x use them. After an error, such as a unit
    that cannot reach rho, the model is as it was.

    Args:
        model: in the mode in which `loss` is to call it, as model(...).
        x: a tensor (rows, ...); or batches of any kind, which can be gone through again and again,
            such as a DataLoader. Of many rows those that come first decide how far biases move.
        layer: the name in model.named_modules() of what a ReLU is given: a linear layer, a
            convolution or a batch norm, whose channels are the units, with a bias. An LSTM has no
            such bias; a linear layer behind it does.
        rho: target frequency, in (0, 1); a tensor (L,) for one per unit.
        loss: takes the model and a batch of x and returns the error, a scalar tensor.
        mask: takes a batch of x and returns what `pool_rows` leaves padding out by.
        tolerance: as for `target_frequency_`; units further away in the end are warned of.
        progress: show error, penalty, and how far the worst unit is from rho on the latest batch.
        checkpoint: as for `train_at_frequency`, a file per phase.
        steps, and others that are not listed: as for `train`.

    Example:
        >>> model = nn.Sequential(nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 20))
        >>> x = torch.rand(200, 20)
        >>> history = train_layer_at_frequency(model, x, layer="0", rho=0.2, steps=70)
        >>> activation_frequency(model[0](x))
        tensor([0.2000, 0.2000, 0.2000, 0.2000])
    """
    call = dict(locals())
    check_count("steps", steps, minimum=4)
    example = "lambda model, batch: mse_loss(model(batch), batch)"
    check_function("loss", loss, such_as=example)
    check_loop(call)
    if mask is not None:
        check_function("mask", mask, such_as="lambda batch: batch[1]")
    if not isinstance(x, Iterable) or isinstance(x, Iterator):
        got = f"got {type(x).__name__}"
        raise TypeError(f"x must be a tensor, or batches to go through again and again, {got}")
    file = None if checkpoint is None else Checkpoint(checked_path(checkpoint), identity(call))
    with Capture(model, layer) as captured, restored([model]):
        units = _Layer(model, captured, loss, mask, partial(one_pass, x, model, batch_size, seed))
        rho = check_rho(rho, like=units.bias, shape=units.bias.shape)
        held = units.start_(rho, tolerance)

        def shift() -> list[nn.Parameter]:
            with evaluation_mode(model):
                target_frequency_(units.bias, units.over_x(), rho, tolerance=tolerance)
            for module in model.modules():
                module.training &= not isinstance(module, _BatchNorm)
            return held

        history = in_phases(
            partial(train, model, x, loss=units.error_of, value_range=None),
            FrequencyMultipliers(rho=rho),
            shift,
            lambda _: activation_frequency(units.latest) - rho,
            {name: call[name] for name in _OPTIONS}
            | {"checkpoint": file, "checkpoint_every": checkpoint_every},
        )
        with evaluation_mode(model):
            misses = (activation_frequency(units.over_x()) - rho).abs()
    allowed = (torch.minimum(rho, 1 - rho) / 4).clamp(max=0.05) if tolerance is None else tolerance
    if (misses > allowed).any():
        unit = int(misses.argmax())
        warnings.warn(
            f"unit {unit} of {layer!r} is {misses[unit]:.3g} away from rho: either the layer does "
            "not add its bias to what it returns, or something that is no parameter moves it",
            RuntimeWarning,
            stacklevel=2,
        )
    return history


class _Layer:
    """A layer while a model is trained: its units on a batch, and on all of them."""

    def __init__(
        self,
        model: nn.Module,
        captured: Capture,
        loss: BatchLoss,
        mask: Callable[[Any], Tensor] | None,
        batches: Callable[[], Iterator[Any]],
    ) -> None:
        self.model, self.captured, self.loss, self.mask = model, captured, loss, mask
        self.batches = batches
        [self.name] = captured.layers
        self.part = model.get_submodule(self.name)
        self.units_dim = _units_dim(self.part, self.name)
        self.bias: nn.Parameter = self.part.bias  # type: ignore[assignment]
        self.spread = torch.ones_like(self.bias, requires_grad=False)
        self.latest = self.spread[None]  # pre-activations (rows, L) of the latest batch

    def error_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Units]:
        """What `train` takes: the error of a batch, and what the penalty is given."""
        error = check_returned("loss", self.loss(model, batch), (), "the batch's mean error alone")
        places = None if self.mask is None else self.mask(batch)
        runs = self.captured.runs(self.name)
        rows = torch.cat([pool_rows(z, units_dim=self.units_dim, mask=places) for z in runs])
        self.latest = rows.detach()
        return error, Units(rows / self.spread)

    @torch.no_grad()
    def over_x(self) -> Tensor:
        """Pre-activations (rows, L) on x, or on so much of it as can be sorted."""
        found: list[Tensor] = []
        for batch in self.batches():
            self.error_of(self.model, batch)
            found.append(self.latest)
            if sum(z.numel() for z in found) >= _MOST_VALUES:
                break
        return torch.cat(found)

    def start_(self, rho: float | Tensor, tolerance: float | None) -> list[nn.Parameter]:
        """Scale and shift the layer; the parameters that its values depend on."""
        batch, weights = next(self.batches(), None), list(self.model.parameters())
        if batch is None:
            raise ValueError("x must hold at least one batch, got none")
        error, units = self.error_of(self.model, batch)
        held = _behind(units.pre_activations, weights)
        if set(_behind(error, weights)) <= set(held):
            raise ValueError(f"layer must have something behind it that learns, got {self.name!r}")
        with self.part.register_forward_hook(lambda _layer, _args, output: output.detach()):
            tied = _behind(self.loss(self.model, batch), [self.part.weight])
        z = self.over_x()
        spread = spread_of(z)
        target_frequency_(self.bias, z, rho, tolerance=tolerance)
        if tied:  # to scale it would be to scale a decoder, too
            self.spread = spread
        else:
            with torch.no_grad():
                scale_rows(self.part, spread)  # type: ignore[arg-type]
        return held


def _behind(value: Tensor, parameters: Iterable[Any]) -> list[nn.Parameter]:
    """Those of the parameters that learn and on which a value depends."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    if not (learned and value.requires_grad):
        return []
    found = torch.autograd.grad(value.sum(), learned, retain_graph=True, allow_unused=True)
    return [p for p, gradient in zip(learned, found, strict=True) if gradient is not None]


def _units_dim(part: nn.Module, name: str) -> int:
    """The dim of a layer's units, if it can be scaled and shifted."""
    known = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, _BatchNorm)
    own = all(isinstance(part._parameters.get(each), nn.Parameter) for each in ("weight", "bias"))
    if not isinstance(part, known) or not own:
        raise ValueError(
            f"layer must name a linear layer, a convolution or a batch norm with a weight and a "
            f"bias of its own, got {name!r}, {part}: name the batch norm behind a convolution "
            "without a bias, and a linear layer behind an LSTM"
        )
    if isinstance(part, _BatchNorm):
        return 1
    return -1 if isinstance(part, nn.Linear) else -1 - len(part.kernel_size)
