"""The training loop, for one model."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from saetools.training import bookkeeping as books
from saetools.training.checkpoints import History
from saetools.training.files import FilePath
from saetools.training.rows import batches, check_training_rows, streamed


def train(
    model: nn.Module,
    x: Tensor | Iterable[Tensor],
    penalty: books.Penalty | None = None,
    *,
    steps: int,
    weight: books.Weight = 1.0,
    batch_size: int = 128,
    lr: float = 1e-3,
    scheduler: books.Scheduler | None = None,
    seed: int = 0,
    value_range: tuple[float, float] | None = (0.0, 1.0),
    stop_if_not_finite: bool = True,
    observe: Callable[[nn.Module], Any] | None = None,
    observe_every: int = 100,
    progress: bool = False,
    checkpoint: FilePath | None = None,
    checkpoint_every: int = 500,
) -> History:
    """Train `model` in place on squared error plus `weight * penalty`, with fused Adam.

    Args:
        model: returns an `Output` for a batch.
        x: training rows (rows, D) on the model's device; or batches (B, D), an iterable such as a
            DataLoader, begun again when it runs out, each moved to the model's device.
        penalty: takes the Output and returns a scalar tensor. One that reduces over dim -2 (rows)
            and dim -1 (units) works in `train_ensemble` as well.
        steps: how many batches of `batch_size` rows to train on; an epoch's last may have fewer.
        weight: a number >= 0, or a function of the share of the steps done.
        lr: Adam's learning rate.
        scheduler: makes a torch scheduler from the optimizer, stepped after each batch; for
            instance `lambda adam: LinearLR(adam, 1.0, 0.0, total_iters=steps)`.
        seed: decides the order of the rows; the global random state is not used.
        value_range: what x must lie in; None for data without bounds.
        stop_if_not_finite: raise a FloatingPointError, which names the step and the term, at the
            first loss, or gradient behind a finite loss, that is NaN or infinite.
        observe: called with the model, without a gradient, before the first step, after every
            `observe_every` steps and after the last.
        progress: show a progress bar (needs tqdm).
        checkpoint: a file to keep the training in, every `checkpoint_every` steps, with the state
            of a penalty that has a state_dict. If it exists, training goes on from it, to the bits
            it would have reached without a stop; other rows, another setting or other starting
            weights are refused. It needs x as a tensor.

    Example:
        >>> from saetools import SparseAutoencoder, evaluate
        >>> rows, others = torch.rand(64, 20), torch.rand(32, 20)
        >>> options = {"observe": lambda model: evaluate(model, others).fvu, "observe_every": 20}
        >>> history = train(SparseAutoencoder(seed=0), rows, steps=40, **options)
        >>> history.error.shape, [step for step, fvu in history.observations]
        (torch.Size([40]), [0, 20, 40])
    """
    call = dict(locals())
    books.check_loop(call)
    if isinstance(x, Tensor):
        check_training_rows(x, value_range, model)

    def batches_from(skip: int) -> Iterator[Tensor]:
        if isinstance(x, Tensor):
            return batches(x, batch_size, seed=seed, skip=skip)
        return streamed(x, value_range, model)

    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    keeper, each_step = books.bookkeeping(model, optimizer, call)
    for step, batch in each_step(batches_from):
        output = model(batch)
        error = mse_loss(output.reconstruction, batch)
        cost = torch.zeros_like(error) if penalty is None else books.check_cost(penalty(output), ())
        cost = books.weight_at(weight, step / steps) * cost
        loss = error + cost
        if stop_if_not_finite and not math.isfinite(loss.item()):
            raise FloatingPointError(_not_finite(model, step, error, cost))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keeper.errors.append(error.detach()[None])
        keeper.penalties.append(cost.detach()[None])
    if stop_if_not_finite and not books.weights_are_finite(model):
        raise FloatingPointError(_NOT_FINITE_GRADIENT.format(step=steps - 1))
    return keeper.history()


_NOT_FINITE_GRADIENT = (
    "a gradient is not finite at step {step} (counted from 0), although the loss is: the weights "
    "hold NaN or infinity. A root or a logarithm at 0 in the penalty does this"
)


def _not_finite(model: nn.Module, step: int, error: Tensor, cost: Tensor) -> str:
    if not books.weights_are_finite(model):
        return _NOT_FINITE_GRADIENT.format(step=step - 1)
    terms = {"squared error": error.item(), "penalty": cost.item()}
    guilty = [name for name, value in terms.items() if not math.isfinite(value)]
    return (
        f"the {' and the '.join(guilty) or 'sum of squared error and penalty'} is not finite at "
        f"step {step} (counted from 0): squared error {terms['squared error']:.2g}, "
        f"penalty {terms['penalty']:.2g}; training has stopped. "
        "Pass stop_if_not_finite=False to go on regardless"
    )
