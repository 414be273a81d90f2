"""What the scenes of notebook 09 share: digits, and several small networks trained at once.

A parameter has the network in front, (S, ...), and each network has its own order of the rows.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR


class Digits(NamedTuple):
    """Images of 8 x 8 pixels in [0, 1], and which digit each shows."""

    train: Tensor  # (1297, 64)
    labels: Tensor  # (1297,)
    test: Tensor  # (500, 64)
    test_labels: Tensor  # (500,)


def digits() -> Digits:
    """The handwritten digits of scikit-learn, which needs no download, in a fixed random order.

    Example:
        >>> [tuple(part.shape) for part in digits()]
        [(1297, 64), (1297,), (500, 64), (500,)]
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.data), generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(found.data, dtype=torch.float32)[order] / 16
    y = torch.as_tensor(found.target)[order]
    return Digits(x[:1297], y[:1297], x[1297:], y[1297:])


def stacked(shape: Sequence[int], seeds: Sequence[int], *, fan_in: int) -> nn.Parameter:
    """S times a shape, uniform between -1 and 1 over the root of fan_in, each from its seed.

    Example:
        >>> stacked((2, 3), range(4), fan_in=2).shape
        torch.Size([4, 2, 3])
    """
    draws = [torch.rand(tuple(shape), generator=torch.Generator().manual_seed(s)) for s in seeds]
    return nn.Parameter((2 * torch.stack(draws) - 1) / fan_in**0.5)


def stacked_layers(sizes: Sequence[int], seeds: Sequence[int]) -> nn.ParameterList:
    """Weight (S, in, out) and bias (S, 1, out), which is 0, of each layer in turn.

    Example:
        >>> [tuple(p.shape) for p in stacked_layers((5, 4, 3), range(2))]
        [(2, 5, 4), (2, 1, 4), (2, 4, 3), (2, 1, 3)]
    """
    layers = nn.ParameterList()
    for number, (rows, columns) in enumerate(pairwise(sizes)):
        own = [seed + 1000 * number for seed in seeds]
        layers.append(stacked((rows, columns), own, fan_in=rows))
        layers.append(nn.Parameter(torch.zeros(len(seeds), 1, columns)))
    return layers


def fit(
    parameters: nn.Module,
    rows: int,
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int,
    lr: float = 5e-3,
    batch: int = 128,
    after: Callable[[int, Tensor, torch.optim.Optimizer], None] | None = None,
) -> None:
    """Train S networks at once with Adam, whose rate falls to 0.

    Args:
        parameters: of all networks, with the network as their first dim.
        rows: of the data, all of which come once before any comes again.
        loss: of indices (S, batch), a batch of each network, to a loss that is summed over the
            networks, so that each gets the gradient of its own.
        steps, lr: of Adam.
        batch: the rows of a step.
        after: called after each step with its number, the indices, and Adam.
    """
    networks, generator = len(next(parameters.parameters())), torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(parameters.parameters(), lr=lr, fused=True)
    falling = LinearLR(adam, 1.0, 0.0, total_iters=steps)
    batches = rows // batch
    for step in range(steps):
        if step % batches == 0:
            order = torch.rand(networks, rows, generator=generator).argsort(1)
        index = order[:, batch * (step % batches) :][:, :batch]
        adam.zero_grad()
        loss(index).backward()
        adam.step()
        falling.step()
        if after is not None:
            after(step, index, adam)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the rows, summed over the networks: logits (S, B, classes) and labels (S, B).

    Example:
        >>> cross_entropy(torch.zeros(3, 5, 2), torch.zeros(3, 5, dtype=torch.long))  # 3 ln 2
        tensor(2.0794)
    """
    each = nn.functional.cross_entropy(logits.mT, labels, reduction="none")
    return each.mean(-1).sum()


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each network, (S,): logits (S, B, classes) and labels (B,).

    Example:
        >>> accuracy(torch.eye(2)[None], torch.tensor([0, 0]))
        tensor([0.5000])
    """
    return (logits.argmax(-1) == labels).float().mean(-1)
