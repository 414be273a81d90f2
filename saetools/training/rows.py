"""The training rows: checked where they enter, and handed out batch by batch."""

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saetools.data.checks import check_count, check_finite, check_like, check_number, check_tensor

_BATCHES_GATHERED = 64  # at a time: fast, and no second copy of a large x


def batches(x: Tensor, batch_size: int, *, seed: int, skip: int = 0) -> Iterator[Tensor]:
    """Endless mini-batches of the rows of x (rows, ...), in a new random order each epoch.

    They stay on the device of x, without a gradient; the last one of an epoch may have fewer rows.
    The seed decides the order, and the global random state is not used. The first `skip` batches
    are left out, without reading their rows.

    Example:
        >>> stream = batches(torch.arange(3), 2, seed=0)
        >>> [len(next(stream)) for _ in range(4)]
        [2, 1, 2, 1]
    """
    check_count("batch_size", batch_size)
    check_count("seed", seed, minimum=0)
    check_count("skip", skip, minimum=0)
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x must have at least one row, got shape {tuple(x.shape)}")
    x = x.detach()
    parts = (
        part
        for order in _orders(x, batch_size, seed, skip)
        for part in order.split(_BATCHES_GATHERED * batch_size)
    )
    return (batch for part in parts for batch in x[part].split(batch_size))


def rows_of_batches(
    x: Tensor, batch_size: int, seeds: Sequence[int], skip: int = 0
) -> Iterator[Tensor]:
    """Numbers of rows (N, B): for each seed those that `batches` would take."""
    for orders in zip(*(_orders(x, batch_size, seed, skip) for seed in seeds), strict=True):
        for part in torch.stack(orders).split(batch_size, dim=1):
            yield part.contiguous()


def _orders(x: Tensor, batch_size: int, seed: int, skip: int) -> Iterator[Tensor]:
    """The order (rows,) of each epoch; the first lacks what is skipped of it."""
    generator = torch.Generator().manual_seed(seed)
    epochs, batches_of_epoch = divmod(skip, math.ceil(len(x) / batch_size))
    for epoch in itertools.count():
        order = torch.randperm(len(x), generator=generator, device="cpu")
        if epoch >= epochs:
            start = batches_of_epoch * batch_size if epoch == epochs else 0
            yield order[start:].to(x.device)


def streamed(x: Iterable[Any], model: nn.Module) -> Iterator[Any]:
    """The batches of x again and again, those that are tensors on the model's device."""
    if not isinstance(x, Iterable):
        raise TypeError(f"x must be a torch.Tensor, or batches of them, got {type(x).__name__}")
    given = 0
    while True:
        before = given
        for batch in one_pass(x, model):
            given += 1
            yield batch
        if given == before:
            raise ValueError(
                f"x has run out after {given} batches: what can be gone through once, such as a "
                "generator, must hold one for each step; a list or a DataLoader is begun again"
            )


def one_pass(
    x: Tensor | Iterable[Any], model: nn.Module, batch_size: int = 1, seed: int = 0
) -> Iterator[Any]:
    """Each batch of x once; those that are tensors on the model's device."""
    if isinstance(x, Tensor):
        epoch = math.ceil(len(x) / check_count("batch_size", batch_size))
        return itertools.islice(batches(x, batch_size, seed=seed), epoch)
    # A DataFrame would give the names of its columns, a dict those of its items.
    if hasattr(x, "__array__") or hasattr(x, "_fields") or isinstance(x, dict):
        check_tensor("x", x, dims=1)
    device = next(model.parameters()).device
    return (each.detach().to(device) if isinstance(each, Tensor) else each for each in x)


def _items(batch: Any) -> Iterable[Any]:
    return batch.values() if isinstance(batch, dict) else batch


def _numbers(values: object) -> list[float]:
    each = values if isinstance(values, tuple | list) else ()
    return [check_number("value_range", value) for value in each]


def check_training_rows(
    x: Tensor, value_range: tuple[float, float] | None, model: nn.Module
) -> Tensor:
    """x, if it holds rows (rows, D) that the model can be trained on, within the range."""
    if isinstance(x, tuple | list | dict) and any(isinstance(each, Tensor) for each in _items(x)):
        raise TypeError(
            f"x must give batches of rows alone, tensors (B, D), got a {type(x).__name__} of "
            f"{len(x)}: use DataLoader(rows, ...) with a tensor of rows, without TensorDataset or "
            "labels, or pass a loss= of your own, which is given each batch as it is"
        )
    check_finite("x", check_like("x", check_tensor("x", x, dims=2), model))
    if value_range is None:
        return x
    if len(pair := _numbers(value_range)) != 2 or not pair[0] < pair[1]:
        raise ValueError(f"value_range must be (low, high) or None, got {value_range!r}")
    (low, high), least, most = value_range, x.min().item(), x.max().item()
    if least < low or most > high:
        raise ValueError(
            f"x must lie in [{low:g}, {high:g}], got values from {least:.9g} to {most:.9g}: "
            "scale it, or pass value_range=None for data without bounds, and let the model have an "
            "output without any: SparseAutoencoder(..., output=torch.nn.Identity())"
        )
    return x


def warn_if_worthless(error: Tensor, x: Tensor, *, stacklevel: int = 3) -> None:
    """Warn where the mean row of x would do as well, by the late errors (steps,) or (steps, N).

    Nothing is said of fewer than 100 steps. The variance of x is that of 4096 of its rows.
    """
    if len(error) < 100:
        return
    variance = x[:: math.ceil(len(x) / 4096)].double().var(0, correction=0).mean().item()
    if (worst := error[-50:].double().mean(0).max().item()) >= variance > 0:
        warnings.warn(
            f"the error of the last 50 steps, {worst:.3g}, is no less than the variance of x, "
            f"{variance:.3g} (FVU >= 1): the mean of x reconstructs it as well. Scale x; let the "
            "model's output be torch.nn.Identity() for data without bounds; start with "
            "start_at_frequency_; or take a smaller weight, or more steps",
            UserWarning,
            stacklevel=stacklevel,
        )
