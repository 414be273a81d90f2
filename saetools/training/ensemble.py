"""Many models of one shape, trained at once as one stacked computation."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from saetools.data.checks import check_count, check_rows
from saetools.data.hints import rest_of_epoch
from saetools.training import loop
from saetools.training.checkpoints import Checkpoint, FilePath, History
from saetools.training.guards import (
    Weight,
    check_cost,
    check_loop,
    weight_at,
    weights_are_finite,
)
from saetools.training.models import SparseAutoencoder
from saetools.training.progress import Bar
from saetools.training.rows import check_training_rows, rows_of_batches, warn_if_worthless
from saetools.training.stacking import check_alike, stack, unstack

_Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Any]]


def train_ensemble(
    models: Sequence[SparseAutoencoder],
    x: Tensor,
    penalty: loop.Penalty | None = None,
    *,
    steps: int,
    weight: Weight = 1.0,
    batch_size: int = 128,
    lr: float = 1e-3,
    scheduler: loop.Scheduler | None = None,
    seeds: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = (0.0, 1.0),
    observe: Callable[..., Any] | None = None,
    observe_every: int = 100,
    progress: bool | Bar = False,
    compile: bool = False,  # noqa: A002
    checkpoint: FilePath | Checkpoint | None = None,
    checkpoint_every: int = 500,
) -> History:
    """Train N models in place, each as `train` would train it alone, as one computation.

    Every tensor has a leading dim of members: the penalty sees an Output whose pre-activations have
    the shape (N, B, L), and the history holds (steps, N). After an error the models are as they
    were. Members that turn NaN or infinite do not touch the others; a RuntimeWarning names them,
    with step and term. What is not listed is as for `train`.

    Args:
        models: N of one class, shape, dtype and device, whose parameters all belong to
            torch.nn.Linear layers. They may start from any weights. Hooks are not called.
        penalty: returns a tensor (N,). Its settings may differ by member: a rho of shape (N, 1), a
            temperature of shape (N, 1, 1), a weight of its own.
        seeds: of the members' orders of the rows, N of them; 0 to N - 1 by default.
        observe: called with a module that maps (rows, D) to the members' (N, rows, ...), and with
            the history, if asked for. In a recipe's phase it is that phase's.
        compile: use torch.compile, which needs a C++ compiler, and up to a minute for the first
            step.

    Example:
        >>> from saetools import frequency_penalty
        >>> models = [SparseAutoencoder(seed=seed) for seed in range(3)]
        >>> rho = torch.tensor([[0.1], [0.2], [0.3]])  # (N, 1), one target per member
        >>> penalty = lambda output: frequency_penalty(output.pre_activations, rho=rho, dim=-2)
        >>> train_ensemble(models, torch.rand(64, 20), penalty, steps=5).error.shape
        torch.Size([5, 3])
    """
    call = dict(locals())
    seeds = check_ensemble(call)
    members, x, ensemble = (len(models),), x.detach(), stack(models)
    trained = [parameter for parameter in ensemble.parameters() if parameter.requires_grad]

    def gradients_at(rows: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Any]:
        # One gather for all members; faster than indexing with (N, B).
        batch = x.index_select(0, rows.flatten()).view(*rows.shape, -1)  # (N, B, D)
        output = ensemble(batch)
        error = mse_loss(output.reconstruction, batch, reduction="none").mean((-2, -1))
        cost = torch.zeros_like(error)
        if penalty is not None:
            cost = factor * check_cost(penalty(output), members)
        loss = (error + cost).sum()  # a sum keeps the members' gradients apart
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        return error.detach(), cost.detach(), gradients

    step_at = _compiled(gradients_at) if compile else gradients_at
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=lr, fused=True)
    keeper, each_step = loop.bookkeeping(ensemble, optimizer, call)
    for step, rows in each_step(partial(rows_of_batches, x, batch_size, seeds)):
        factor = x.new_tensor(weight_at(weight, step / steps))
        with rest_of_epoch(rows.shape[1] < min(batch_size, len(x))):
            error, cost, gradients = step_at(rows, factor)
        for parameter, gradient in zip(trained, gradients, strict=True):
            # Fused Adam reads a gradient in another layout wrongly, and says nothing.
            parameter.grad = None if gradient is None else gradient.contiguous()
        optimizer.step()
        torch.clear_autocast_cache()  # in a block around all steps it would keep the old weights
        keeper.errors.append(error[None])
        keeper.penalties.append(cost[None])
    unstack(ensemble, models)
    history = keeper.history()
    _warn_of_failures(history, models)
    if value_range is None:
        warn_if_worthless(history.error, x)
    return history


def check_ensemble(call: Mapping[str, Any]) -> list[int]:
    """The members' seeds, if nothing in a call of `train_ensemble` is wrong."""
    count, seeds = len(check_alike(call["models"])), call["seeds"]
    check_training_rows(check_rows("x", call["x"]), call["value_range"], call["models"][0])
    check_loop(call)
    if seeds is None:
        return list(range(count))
    orders = seeds.tolist() if isinstance(seeds, Tensor) else seeds
    if not isinstance(orders, Iterable):
        raise TypeError(f"seeds must hold one value per member, {count}, got {seeds!r}")
    orders = [check_count("seeds", seed, minimum=0) for seed in orders]
    if len(orders) != count:
        raise ValueError(f"seeds must hold one value per member, {count}, got {len(orders)}")
    return orders


def _compiled(step: _Step) -> _Step:
    """`step` under torch.compile, gradients included, in one graph where torch can do that."""
    compiled, config = torch.compile(step, dynamic=False), torch._dynamo.config
    # Older versions compile the forward and the backward pass apart, which is slower.
    one_graph = {"trace_autograd_ops": True} if hasattr(config, "trace_autograd_ops") else {}

    def attempt(rows: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Any]:
        try:
            with config.patch(one_graph):
                return compiled(rows, factor)
        except Exception as error:
            step(rows, factor)  # an error in the penalty itself shows as what it is
            raise RuntimeError(
                "compile=True: torch.compile failed, most often for want of a C++ compiler (g++ or "
                f"clang); compile=False trains the same without. It said: {error}"
            ) from error

    return attempt


def _warn_of_failures(history: History, models: Sequence[nn.Module]) -> None:
    failed = []
    for i, model in enumerate(models):
        terms = {"squared error": history.error[:, i], "penalty": history.penalty[:, i]}
        bad = ~(terms["squared error"] + terms["penalty"]).isfinite()
        step = int(bad.nonzero()[0]) if bad.any() else len(bad)
        guilty = [name for name, term in terms.items() if not term[step:][:1].isfinite().all()]
        if guilty or not weights_are_finite(model):
            failed.append(f"{i} ({' and '.join(guilty) or 'weights'}, from step {step})")
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(models)} members are not finite: {', '.join(failed)}; "
            "the others are not touched",
            RuntimeWarning,
            stacklevel=3,
        )
