"""What every training loop does beside its steps: settings, learning rate, history, checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from saetools.data.checks import check_count, check_number
from saetools.training.checkpoints import Checkpoint, Keeper
from saetools.training.identity import identity
from saetools.training.models import Output

Penalty = Callable[[Output], Tensor]
Weight = float | Callable[[float], float]
Scheduler = Callable[[Optimizer], LRScheduler]
Batch = TypeVar("Batch")


def check_loop(call: Mapping[str, Any]) -> None:
    """Raise for a setting of any loop that is wrong, before anything changes."""
    for name in ("steps", "batch_size", "observe_every", "checkpoint_every"):
        check_count(name, call[name])
    check_number("lr", call["lr"], above=0)
    weight_at(call["weight"], 0.0)
    if call["observe"] is not None and not callable(call["observe"]):
        raise TypeError(f"observe must be a function, got {call['observe']!r}")
    if call["checkpoint"] is not None and not isinstance(call["x"], Tensor):
        raise ValueError("checkpoint needs x as a tensor, whose rows it can find again")


def weight_at(weight: Weight, done: float) -> float:
    """The penalty's weight when a share `done` of the steps is done."""
    return check_number("weight", weight(done) if callable(weight) else weight, minimum=0)


def check_cost(cost: Any, shape: tuple[int, ...]) -> Tensor:
    """What a penalty has returned, if it has one value per member."""
    if not isinstance(cost, Tensor):
        raise TypeError(f"penalty must return a tensor, got {type(cost).__name__}")
    if cost.shape != shape:
        raise ValueError(
            f"penalty must return a tensor of shape {shape}, a mean over the rows (dim -2) and a "
            f"sum over the units (dim -1), got shape {tuple(cost.shape)}"
        )
    return cost


def bookkeeping(
    model: nn.Module, optimizer: Optimizer, call: Mapping[str, Any]
) -> tuple[Keeper, Callable[[Callable[[int], Iterator[Batch]]], Iterator[tuple[int, Batch]]]]:
    """What keeps the history of a `call`, by its arguments' names, and what its loop goes over.

    The first is restored from a checkpoint, if there is one. The second takes a function from the
    number of batches to skip to the batches, and yields each step's number and batch.
    """
    _keep_freed_memory()
    steps, every, observe = call["steps"], call["observe_every"], call["observe"]
    scheduler = call["scheduler"] and call["scheduler"](optimizer)
    file = call["checkpoint"]
    if file is not None and not isinstance(file, Checkpoint):
        file = Checkpoint(file, identity(call))
    parts = {"penalty": call["penalty"], "optimizer": optimizer, "scheduler": scheduler}
    keeper = Keeper(file, call["checkpoint_every"], steps, {**parts, "model": model})

    @torch.no_grad()
    def observe_after(done: int) -> None:
        if observe is not None and (done % every == 0 or done == steps):
            keeper.observations.append((done, observe(model)))

    def each_step(batches_from: Callable[[int], Iterator[Batch]]) -> Iterator[tuple[int, Batch]]:
        first = keeper.kept_at or 0
        if not keeper.observations:
            observe_after(0)
        keeper.keep(first)
        numbers = _progress_bar(first, steps) if call["progress"] else range(first, steps)
        for step, batch in zip(numbers, batches_from(first), strict=False):
            yield step, batch
            if scheduler is not None:
                scheduler.step()
            observe_after(step + 1)
            keeper.keep(step + 1)

    return keeper, each_step


def weights_are_finite(model: nn.Module) -> bool:
    """Whether no parameter holds NaN or infinity."""
    return all(bool(weight.isfinite().all()) for weight in model.parameters())


def _keep_freed_memory() -> None:
    """Let the allocator keep what a step frees for the next one, up to 62 MiB."""
    # glibc hands it back where it has seen no large block, and pays for its pages anew per step: a
    # fifth of a step's time at 1024 units and 1024 rows. Freeing a large block, never written to,
    # tells it that such sizes come and go (M_MMAP_THRESHOLD in mallopt's manual).
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")


def _progress_bar(first: int, steps: int) -> Any:
    from tqdm.auto import trange  # optional: only where a bar is asked for

    return trange(first, steps, initial=first, total=steps, desc="train", unit="step")
