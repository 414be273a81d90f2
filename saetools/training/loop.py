"""One training loop, for one model."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from saetools.data.checks import check_count, check_number
from saetools.training.checkpoints import checkpointing
from saetools.training.files import FilePath
from saetools.training.models import Output
from saetools.training.rows import batches, check_rows, streamed

Penalty = Callable[[Output], Tensor]
PenaltyWeight = float | Callable[[float], float]


class History(NamedTuple):
    """What happened during training."""

    error: Tensor  # (steps,), mean squared error of each batch
    penalty: Tensor  # (steps,), its weighted penalty, 0 where there is none
    observations: list[tuple[int, Any]]  # (steps done, what `observe` returned)


def train(
    model: nn.Module,
    x: Tensor | Iterable[Tensor],
    penalty: Penalty | None = None,
    *,
    steps: int,
    weight: PenaltyWeight = 1.0,
    batch_size: int = 128,
    lr: float = 1e-3,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    seed: int = 0,
    value_range: tuple[float, float] | None = (0.0, 1.0),
    stop_if_not_finite: bool = True,
    observe: Callable[[nn.Module], Any] | None = None,
    observe_every: int = 100,
    progress: bool = False,
    checkpoint: FilePath | None = None,
    checkpoint_every: int = 500,
) -> History:
    """Train `model` in place on squared error plus `penalty`, with fused Adam.

    Args:
        model: returns an `Output` for a batch.
        x: the training rows (rows, D), on the model's device. Or, where they do not fit into
            memory, batches: an iterable of tensors (B, D), such as a DataLoader over a tensor or
            a list of files' contents, gone through again from its beginning when it runs out.
            Each batch is checked as it comes, and moved to the model's device.
        penalty: takes the model's Output and returns a scalar tensor; None for no penalty. One
            that reduces over dim -2 (rows) and dim -1 (units) works in train_ensemble as well.
        steps: how many batches to train on.
        weight: what the penalty is multiplied by: a number >= 0, or a function from
            the share of the steps done, in [0, 1), to it.
        batch_size: rows of a batch; the last batch of an epoch may have fewer. Of no effect, as
            seed is, where x comes in batches.
        lr: Adam's learning rate.
        scheduler: makes a torch scheduler from the optimizer, stepped after every batch; for
            example `lambda adam: LinearLR(adam, 1.0, 0.0, total_iters=steps)`.
        seed: of the order of the rows; the global random state is not used.
        value_range: what x must lie in, by default [0, 1]; None for data without bounds.
        stop_if_not_finite: stop at the first loss that is NaN or infinite.
        observe: called with the model before the first step, after every `observe_every`
            steps and after the last, without a gradient; the history keeps what it returns. For
            a validation curve it is `lambda model: evaluate(model, others)._asdict()`.
        observe_every: steps between two observations.
        progress: show a progress bar (needs tqdm).
        checkpoint: a file to keep the training in; if it exists, training goes on from it, to
            the bits that it would have reached without a stop (needs safetensors). It holds
            the model, the optimizer, the scheduler, the history, the global random generators
            that training drew from, and a penalty that has a state_dict and a load_state_dict;
            not what functions keep elsewhere, or buffers that are not persistent.
            It needs x as a tensor.
        checkpoint_every: steps between two checkpoints; there is one at the start and at the end.

    Returns:
        History(error (steps,), penalty (steps,), observations).

    Raises:
        TypeError, ValueError: if an argument is not as above, x holds NaN or infinity or runs
            out of batches for good, or the checkpoint is damaged or of other training: a
            setting, the model or x differs. What an argument holds inside, such as a penalty's
            rho, is not compared.
        FloatingPointError: if a loss, or a gradient behind a finite loss, is not finite; the
            message names the step and the term.

    Example:
        >>> from saetools import SparseAutoencoder
        >>> history = train(SparseAutoencoder(seed=0), torch.rand(64, 20), steps=3)
        >>> history.error.shape
        torch.Size([3])

        With a validation curve:

        >>> from saetools import evaluate
        >>> train_rows, others = torch.rand(64, 20), torch.rand(32, 20)
        >>> history = train(
        ...     SparseAutoencoder(seed=0),
        ...     train_rows,
        ...     steps=40,
        ...     observe=lambda model: evaluate(model, others)._asdict(),
        ...     observe_every=20,
        ... )
        >>> [(step, seen["fvu"] > 0) for step, seen in history.observations]
        [(0, True), (20, True), (40, True)]
    """
    check_count("steps", steps)
    check_number("lr", lr, above=0)
    if isinstance(x, Tensor):
        check_rows(x, value_range, model)
    keep_freed_memory()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    schedule = None if scheduler is None else scheduler(optimizer)
    errors: list[Tensor] = []
    penalties: list[Tensor] = []
    weight_of = weight_at(weight, steps)
    observations, look = observing(model, observe, every=observe_every, steps=steps)
    done, keep = checkpointing(
        checkpoint,
        every=checkpoint_every,
        steps=steps,
        x=x,
        settings={
            "penalty": penalty,
            "weight": weight,
            "batch_size": batch_size,
            "lr": lr,
            "scheduler": scheduler,
            "seed": seed,
            "observe": observe,
            "observe_every": observe_every,
        },
        parts={"penalty": penalty, "optimizer": optimizer, "scheduler": schedule, "model": model},
        curves={"error": errors, "penalty": penalties},
        observations=observations,
    )

    if not observations:
        look(0)
    keep(done)
    for step, batch in zip(
        progress_bar(steps, done) if progress else range(done, steps),
        batches(x, batch_size, seed=seed, skip=done)
        if isinstance(x, Tensor)
        else streamed(x, value_range, model),
        strict=False,
    ):
        output = model(batch)
        error = mse_loss(output.reconstruction, batch)
        cost = torch.zeros_like(error) if penalty is None else _check_scalar(penalty(output))
        cost = weight_of(step) * cost
        loss = error + cost
        errors.append(error.detach())
        penalties.append(cost.detach())
        if stop_if_not_finite and not math.isfinite(loss.item()):
            raise FloatingPointError(_not_finite(model, step, error, cost))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        look(step + 1)
        keep(step + 1)
    if stop_if_not_finite and not weights_are_finite(model):
        raise FloatingPointError(_NOT_FINITE_GRADIENT.format(step=steps - 1))
    return History(torch.stack(errors).cpu(), torch.stack(penalties).cpu(), observations)


def keep_freed_memory() -> None:
    """Let the allocator keep what a step frees for the next one, up to 62 MiB.

    glibc hands it back to the system where it has seen no large block, and then pays for each of
    its pages anew in each step: a fifth of a step's time at 1024 units and 1024 rows. Freeing one
    large block, never written to, tells it that such sizes come and go (M_MMAP_THRESHOLD in
    mallopt's manual). Other allocators are not changed.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")


def weight_at(weight: PenaltyWeight, steps: int) -> Callable[[int], float]:
    """The weight of the penalty at each step, counted from 0."""

    def at(step: int) -> float:
        value = weight(step / steps) if callable(weight) else weight
        return check_number("weight", value, minimum=0)

    return at


def observing(
    model: nn.Module, observe: Callable[[nn.Module], Any] | None, *, every: int, steps: int
) -> tuple[list[tuple[int, Any]], Callable[[int], None]]:
    """A list of observations, and what adds to it when called with the steps done."""
    check_count("observe_every", every)
    observations: list[tuple[int, Any]] = []

    @torch.no_grad()
    def look(steps_done: int) -> None:
        if observe is not None and (steps_done % every == 0 or steps_done == steps):
            observations.append((steps_done, observe(model)))

    return observations, look


def _check_scalar(cost: Any) -> Tensor:
    if not isinstance(cost, Tensor):
        raise TypeError(f"penalty must return a scalar tensor, got {type(cost).__name__}")
    if cost.ndim != 0:
        raise ValueError(
            "penalty must return a scalar tensor, that is, a sum over the units, "
            f"got shape {tuple(cost.shape)}"
        )
    return cost


_NOT_FINITE_GRADIENT = (
    "a gradient is not finite at step {step} (counted from 0), although the loss is: the weights "
    "hold NaN or infinity. A root or a logarithm at 0 in the penalty does this"
)


def weights_are_finite(model: nn.Module) -> bool:
    """Whether no parameter holds NaN or infinity."""
    return all(bool(weight.isfinite().all()) for weight in model.parameters())


def _not_finite(model: nn.Module, step: int, error: Tensor, cost: Tensor) -> str:
    if not weights_are_finite(model):
        return _NOT_FINITE_GRADIENT.format(step=step - 1)
    terms = {"squared error": error.item(), "penalty": cost.item()}
    guilty = [name for name, value in terms.items() if not math.isfinite(value)]
    return (
        f"the {' and the '.join(guilty) or 'sum of squared error and penalty'} is not finite at "
        f"step {step} (counted from 0): squared error {terms['squared error']:.2g}, "
        f"penalty {terms['penalty']:.2g}; training has stopped. "
        "Pass stop_if_not_finite=False to go on regardless"
    )


def progress_bar(steps: int, done: int = 0) -> Any:
    """`range(done, steps)` with a bar that shows the rate and the time left."""
    from tqdm.auto import trange  # optional: only where a bar is asked for

    return trange(done, steps, initial=done, total=steps, desc="train", unit="step")
