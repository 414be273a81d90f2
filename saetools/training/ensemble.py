"""Many models of one shape, trained at once as one stacked computation."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from saetools.data.checks import check_count
from saetools.training.checkpoints import checkpointing
from saetools.training.files import FilePath
from saetools.training.loop import (
    Penalty,
    PenaltyWeight,
    keep_freed_memory,
    observing,
    progress_bar,
    weight_at,
    weights_are_finite,
)
from saetools.training.members import check_rates, check_settings, one_a_member
from saetools.training.models import SparseAutoencoder
from saetools.training.rows import check_rows, row_orders
from saetools.training.stacking import stack, unstack

_Gradients = tuple[Tensor | None, ...]
_Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, _Gradients]]


class EnsembleHistory(NamedTuple):
    """What happened during training, for N models."""

    error: Tensor  # (steps, N), mean squared error of each member's batch
    penalty: Tensor  # (steps, N), its weighted penalty, 0 where there is none
    observations: list[tuple[int, Any]]  # (steps done, what `observe` returned)
    table: list[dict[str, Any]]  # one row a member


def train_ensemble(
    models: Sequence[SparseAutoencoder],
    x: Tensor,
    penalty: Penalty | None = None,
    *,
    steps: int,
    weight: PenaltyWeight = 1.0,
    batch_size: int = 128,
    lr: float | Sequence[float] = 1e-3,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    seeds: Sequence[int] | None = None,
    settings: Sequence[Mapping[str, Any]] | None = None,
    value_range: tuple[float, float] | None = (0.0, 1.0),
    observe: Callable[[nn.Module], Any] | None = None,
    observe_every: int = 100,
    progress: bool = False,
    compile: bool = False,  # noqa: A002
    checkpoint: FilePath | None = None,
    checkpoint_every: int = 500,
) -> EnsembleHistory:
    """Train N models in place, each as `train` would train it alone, as one computation.

    Every tensor has a leading dim of members: the penalty sees an Output whose
    pre-activations have the shape (N, B, L), and returns one value a member. A penalty that
    reduces over dim -2 (rows) and dim -1 (units) works here and in `train`, and its settings
    may differ by member: a rho of shape (N, 1), a temperature of shape (N, 1, 1).

    Args:
        models: N of one class, shape, dtype and device, whose parameters all belong to
            torch.nn.Linear layers. They may start from any weights. Hooks are not called.
        x: the training rows (rows, D), on the models' device.
        penalty: takes the members' Output and returns a tensor (N,); None for no penalty.
        steps: how many batches to train on.
        weight: as for `train`, for all members; a weight by member belongs in the
            penalty, as a tensor (N,).
        batch_size: rows of a batch; the last batch of an epoch may have fewer.
        lr: Adam's learning rate, at most 1e6, one for all or one a member.
        scheduler: makes a torch scheduler from the optimizer, stepped after every batch; it
            scales the rate of every member alike, from the largest.
        seeds: of the order of the rows, one a member; 0 to N - 1 by default.
        settings: one mapping a member, for its row in the table.
        value_range: what x must lie in, by default [0, 1]; None for data without bounds.
        observe: called with a module that maps (rows, D) to the members' (N, rows, ...),
            when `train` would call it.
        observe_every: steps between two observations.
        progress: show a progress bar with the rate and the time left (needs tqdm).
        compile: compile the forward and backward pass with torch.compile. The first step then
            takes up to a minute, and needs a C++ compiler.
        checkpoint, checkpoint_every: as for `train`.

    Returns:
        EnsembleHistory(error (steps, N), penalty (steps, N), observations, table). The table
        has one dict a member: member, seed, lr, its settings, the last error and penalty, and
        not_finite_at, the first step at which the member was not finite, or None.

    Raises:
        TypeError, ValueError: if an argument is not as above, x holds NaN or infinity, or the
            checkpoint does not fit, as for `train`.
        RuntimeError: if compile is True and no compiler works here.

    Warns:
        RuntimeWarning: if members turned NaN or infinite; it names them, with step and term.
            The others are not touched.

    Example:
        >>> from saetools import bernoulli_kl, smooth, straight_through_frequency
        >>> models = [SparseAutoencoder(seed=seed) for seed in range(3)]
        >>> rho = torch.tensor([[0.1], [0.2], [0.3]])  # (N, 1), one target a member
        >>> def penalty(output):
        ...     rho_hat = smooth(straight_through_frequency(output.pre_activations, 0.3))
        ...     return bernoulli_kl(rho_hat, rho=rho).sum(-1)
        >>> history = train_ensemble(models, torch.rand(64, 20), penalty, steps=5)
        >>> history.error.shape, history.table[2]["seed"]
        (torch.Size([5, 3]), 2)
    """
    check_count("steps", steps)
    ensemble = stack(models)
    check_rows(x, value_range, ensemble)
    if x.ndim != 2:
        raise ValueError(f"x must have 2 dims, (rows, D), got shape {tuple(x.shape)}")
    check_count("batch_size", batch_size)
    keep_freed_memory()
    count = len(models)
    seeds = [
        check_count("seeds", seed, minimum=0)
        for seed in one_a_member("seeds", range(count) if seeds is None else seeds, count)
    ]
    settings = check_settings([{}] * count if settings is None else settings, count)
    rates = check_rates(lr, count)

    trained = [parameter for parameter in ensemble.parameters() if parameter.requires_grad]

    x = x.detach()

    def slope(rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, _Gradients]:
        # One gather for all members; faster than indexing with (N, B).
        batch = x.index_select(0, rows.flatten()).view(*rows.shape, -1)  # (N, B, D)
        output = ensemble(batch)
        error = mse_loss(output.reconstruction, batch, reduction="none").mean((-2, -1))
        cost = torch.zeros_like(error) if penalty is None else penalty(output)
        cost = weight * _check_costs(cost, count)
        loss = (error + cost).sum()  # a sum keeps the members' gradients apart
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        return error.detach(), cost.detach(), gradients

    slope_at = _compiled(slope) if compile else slope
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=max(rates), fused=True)
    schedule = None if scheduler is None else scheduler(optimizer)
    adam_step = _step_at(rates, optimizer, ensemble)
    errors: list[Tensor] = []
    penalties: list[Tensor] = []
    weight_of = weight_at(weight, steps)
    observations, look = observing(ensemble, observe, every=observe_every, steps=steps)

    done, keep = checkpointing(
        checkpoint,
        every=checkpoint_every,
        steps=steps,
        x=x,
        settings={
            "penalty": penalty,
            "weight": weight,
            "batch_size": batch_size,
            "lr": rates,
            "scheduler": scheduler,
            "seeds": seeds,
            "observe": observe,
            "observe_every": observe_every,
            "compile": compile,
        },
        parts={
            "penalty": penalty,
            "optimizer": optimizer,
            "scheduler": schedule,
            "model": ensemble,
        },
        curves={"error": errors, "penalty": penalties},
        observations=observations,
    )

    if not observations:
        look(0)
    keep(done)
    for step, rows in zip(
        progress_bar(steps, done) if progress else range(done, steps),
        _rows_of_batches(x, batch_size, seeds, done),
        strict=False,
    ):
        error, cost, gradients = slope_at(rows, x.new_tensor(weight_of(step)))
        errors.append(error)
        penalties.append(cost)
        for parameter, gradient in zip(trained, gradients, strict=True):
            # Fused Adam reads a gradient in another layout wrongly, and says nothing.
            parameter.grad = None if gradient is None else gradient.contiguous()
        adam_step()
        if schedule is not None:
            schedule.step()
        look(step + 1)
        keep(step + 1)

    unstack(ensemble, models)
    error, cost = torch.stack(errors).cpu(), torch.stack(penalties).cpu()
    failures = [_failure(error[:, i], cost[:, i], model) for i, model in enumerate(models)]
    _warn_of(failures)
    table = [
        {
            "member": i,
            "seed": seeds[i],
            "lr": rates[i],
            **settings[i],
            "error": error[-1, i].item(),
            "penalty": cost[-1, i].item(),
            "not_finite_at": None if failure is None else failure[0],
        }
        for i, failure in enumerate(failures)
    ]
    return EnsembleHistory(error, cost, observations, table)


def _rows_of_batches(
    x: Tensor, batch_size: int, seeds: Sequence[int], skip: int
) -> Iterator[Tensor]:
    """Numbers of rows (N, B): to each member those that `batches` would give it alone."""
    orders = [row_orders(x, seed=seed, batch_size=batch_size, skip=skip) for seed in seeds]
    for order in zip(*orders, strict=True):
        for part in torch.stack(order).split(batch_size, dim=1):
            yield part.contiguous()


def _check_costs(cost: Any, count: int) -> Tensor:
    if not isinstance(cost, Tensor):
        raise TypeError(f"penalty must return a tensor, got {type(cost).__name__}")
    if cost.shape != (count,):
        raise ValueError(
            f"penalty must return one value a member, shape ({count},), that is, a mean over the "
            f"rows (dim -2) and a sum over the units (dim -1), got shape {tuple(cost.shape)}"
        )
    return cost


def _step_at(
    rates: Sequence[float], optimizer: Optimizer, ensemble: nn.Module
) -> Callable[[], Any]:
    """The optimizer's step, at each member's share of the largest rate.

    Adam's update is proportional to its rate, and the optimizer takes one rate for all members.
    """
    if len(set(rates)) == 1:
        return optimizer.step
    parameters = list(ensemble.parameters())  # (N, ., .) each
    share = parameters[0].new_tensor([rate / max(rates) for rate in rates])[:, None, None]

    @torch.no_grad()
    def step() -> None:
        before = [parameter.clone() for parameter in parameters]
        optimizer.step()
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old.lerp(parameter, share))

    return step


def _compiled(slope: _Slope) -> _Slope:
    """`slope` under torch.compile, gradients included, in one graph where torch can do that."""
    compiled = torch.compile(slope, dynamic=False)
    config = torch._dynamo.config
    # Older versions compile the forward and the backward pass apart, which is slower.
    one_graph: dict[str, Any] = (
        {"trace_autograd_ops": True} if hasattr(config, "trace_autograd_ops") else {}
    )

    def attempt(rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, _Gradients]:
        try:
            with config.patch(one_graph):
                return compiled(rows, weight)
        except Exception as error:
            slope(rows, weight)  # an error in the penalty itself shows as what it is
            raise RuntimeError(
                "compile=True: torch.compile failed, most often for want of a C++ compiler (g++ or "
                f"clang); compile=False trains the same without. It said: {error}"
            ) from error

    return attempt


def _failure(error: Tensor, cost: Tensor, model: nn.Module) -> tuple[int, str] | None:
    """The first step at which a member was not finite, and what was not; None if it was."""
    bad = ~(error + cost).isfinite()
    if bad.any():
        step = int(bad.nonzero()[0])
        terms = {"squared error": error[step], "penalty": cost[step]}
        return step, " and ".join(name for name, term in terms.items() if not term.isfinite())
    if not weights_are_finite(model):
        return len(error), "weights"
    return None


def _warn_of(failures: Sequence[tuple[int, str] | None]) -> None:
    failed = [
        f"{i} ({failure[1]}, from step {failure[0]})"
        for i, failure in enumerate(failures)
        if failure
    ]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(failures)} members are not finite: {', '.join(failed)}; "
            "the others are not touched",
            RuntimeWarning,
            stacklevel=3,
        )
