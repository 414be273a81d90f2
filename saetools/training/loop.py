"""The training loop, for one model, and what every loop does beside its steps."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from saetools.data.checks import check_kind, check_output
from saetools.data.hints import rest_of_epoch
from saetools.training.checkpoints import Checkpoint, FilePath, History, Keeper
from saetools.training.guards import (
    NOT_FINITE_GRADIENT,
    Weight,
    check_cost,
    check_loop,
    check_terms,
    not_finite,
    weight_at,
    weights_are_finite,
)
from saetools.training.history import observer
from saetools.training.identity import identity
from saetools.training.models import Output
from saetools.training.progress import Bar
from saetools.training.rows import batches, check_training_rows, streamed, warn_if_worthless

Loss = Callable[[nn.Module, Any], tuple[Tensor, Any]]
Penalty = Callable[[Any], Tensor]
Scheduler = Callable[[Optimizer], LRScheduler]
Batch = TypeVar("Batch")


def squared_error(model: nn.Module, batch: Tensor) -> tuple[Tensor, Output]:
    """The mean squared error of the reconstruction of a batch (B, D), and the model's Output."""
    output = check_output(model(batch), "reconstruction", "pass a loss= of your own")
    if (shape := tuple(output.reconstruction.shape)) != batch.shape:  # it would be broadcast
        shapes = f"of the batch, {tuple(batch.shape)}, got {shape}"
        raise ValueError(f"the model's reconstruction must have the shape {shapes}")
    return mse_loss(output.reconstruction, batch), output


def train(
    model: nn.Module,
    x: Tensor | Iterable[Any],
    penalty: Penalty | None = None,
    *,
    steps: int,
    loss: Loss = squared_error,
    weight: Weight = 1.0,
    batch_size: int = 128,
    lr: float = 1e-3,
    scheduler: Scheduler | None = None,
    seed: int = 0,
    value_range: tuple[float, float] | None = (0.0, 1.0),
    stop_if_not_finite: bool = True,
    observe: Callable[..., Any] | None = None,
    observe_every: int = 100,
    progress: bool | Bar = False,
    checkpoint: FilePath | Checkpoint | None = None,
    checkpoint_every: int = 500,
) -> History:
    """Train `model` in place on squared error plus `weight * penalty`, with fused Adam.

    Args:
        model: returns an `Output` for a batch.
        x: training rows (rows, D) on the model's device; or batches (B, D), an iterable such as a
            DataLoader, begun again when it runs out, each moved to the model's device.
        penalty: takes the Output and returns a scalar tensor. One that reduces over dim -2 (rows)
            and dim -1 (units) works in `train_ensemble` as well.
        loss: in place of the squared error of an Output: called as loss(model, batch), it returns
            the error, a scalar tensor, and what the penalty is given. x may then hold rows of any
            shape and dtype; of its batches those that are no tensors are handed on as they are.
        steps: how many batches of `batch_size` rows to train on; an epoch's last may have fewer.
        weight: a number >= 0, or a function of the share of the steps done.
        lr: Adam's learning rate.
        scheduler: makes a torch scheduler from the optimizer, stepped after each batch, for
            instance `lambda adam: LinearLR(adam, 1.0, 0.0, total_iters=steps)`.
        seed: decides the order of the rows; the global random state is not used.
        value_range: what x must lie in; None for data without bounds, for which a warning follows
            where after 100 steps or more the mean row would do as well.
        stop_if_not_finite: raise a FloatingPointError, which names the step and the term, at the
            first loss, or gradient behind a finite loss, that is NaN or infinite.
        observe: called with the model, without a gradient, before the first step, after every
            `observe_every` steps and after the last; also with the `History` so far, if it has a
            second parameter without a default: len(history.error) steps are done.
        progress: show a progress bar with error and penalty (needs tqdm).
        checkpoint: a file to keep the training in, every `checkpoint_every` steps, with a penalty's
            state_dict, if it has one. If the file exists, training goes on from it, to the bits it
            would have reached without a stop; it belongs to one call, and others are refused. It
            needs x as a tensor.

    Example:
        >>> from saetools import SparseAutoencoder, evaluate
        >>> x = torch.rand(64, 20)
        >>> options = {"observe": lambda model: evaluate(model, x).fvu, "observe_every": 20}
        >>> history = train(SparseAutoencoder(seed=0), x, steps=40, **options)
        >>> history.error.shape, [step for step, fvu in history.observations]
        (torch.Size([40]), [0, 20, 40])
    """
    call = dict(locals())
    check_loop(call)

    def checked(rows: Any) -> Any:
        return check_training_rows(rows, value_range, model) if loss is squared_error else rows

    if isinstance(x, Tensor):
        x = checked(x)

    def batches_from(skip: int) -> Iterator[Any]:
        if isinstance(x, Tensor):
            return batches(x, batch_size, seed=seed, skip=skip)
        return map(checked, streamed(x, model))

    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    keeper, each_step = bookkeeping(model, optimizer, call)
    largest = 0
    for step, batch in each_step(batches_from):
        error, output = check_terms(loss(model, batch))
        rows = len(batch) if isinstance(batch, Tensor) else 0  # other batches do not say
        largest = max(largest, rows)
        with rest_of_epoch(rows < largest):
            cost = torch.zeros_like(error) if penalty is None else check_cost(penalty(output), ())
        cost = weight_at(weight, step / steps) * cost
        total = error + cost
        if stop_if_not_finite and not math.isfinite(total.item()):
            raise FloatingPointError(not_finite(model, step, error, cost))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        torch.clear_autocast_cache()  # in a block around all steps it would keep the old weights
        keeper.errors.append(error.detach()[None])
        keeper.penalties.append(cost.detach()[None])
    if stop_if_not_finite and not weights_are_finite(model):
        raise FloatingPointError(NOT_FINITE_GRADIENT.format(step=steps - 1))
    history = keeper.history()
    if value_range is None and loss is squared_error:
        warn_if_worthless(history.error, x if isinstance(x, Tensor) else batch)
    return history


def bookkeeping(
    model: nn.Module, optimizer: Optimizer, call: Mapping[str, Any]
) -> tuple[Keeper, Callable[[Callable[[int], Iterator[Batch]]], Iterator[tuple[int, Batch]]]]:
    """What keeps the history of a `call` (its arguments by name), and what its loop goes over.

    That takes a function from a number of batches to skip to the batches, and yields each step's
    number and batch.
    """
    # Where glibc has seen no large block, it hands back what a step frees, and pays for its pages
    # anew per step: a fifth of its time at 1024 units and 1024 rows. Freeing one, never written
    # to, tells it that blocks up to 62 MiB come and go (M_MMAP_THRESHOLD in mallopt's manual).
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")
    steps, every, observe = call["steps"], call["observe_every"], observer(call["observe"])
    scheduler = None
    if call["scheduler"] is not None:
        scheduler = call["scheduler"](optimizer)
        check_kind("what scheduler returns", scheduler, LRScheduler, "a scheduler of torch")
    bar = Bar(steps) if call["progress"] is True else call["progress"] or None
    file = call["checkpoint"]
    if file is not None and not isinstance(file, Checkpoint):
        file = Checkpoint(file, identity(call))
    parts = {"penalty": call["penalty"], "optimizer": optimizer, "scheduler": scheduler}
    keeper = Keeper(file, call["checkpoint_every"], steps, {**parts, "model": model})

    @torch.no_grad()
    def observe_after(done: int) -> None:
        if observe is not None and (done % every == 0 or done == steps):
            keeper.observations.append((done, observe(model, keeper.history)))

    def each_step(batches_from: Callable[[int], Iterator[Batch]]) -> Iterator[tuple[int, Batch]]:
        first = keeper.kept_at or 0
        if not keeper.observations:
            observe_after(0)
        keeper.keep(first)
        if bar is not None:
            bar.advance(first, model)
        for step, batch in zip(range(first, steps), batches_from(first), strict=False):
            yield step, batch
            if hasattr(model, "normalise_"):
                model.normalise_()  # type: ignore[operator]
            if bar is not None:
                bar.advance(1, model, keeper.errors[-1], keeper.penalties[-1])
            if scheduler is not None:
                scheduler.step()
            observe_after(step + 1)
            keeper.keep(step + 1)

    return keeper, each_step
