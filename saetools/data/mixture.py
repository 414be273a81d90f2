"""Synthetic inputs with known causes, as rows in [0, 1]."""

from typing import NamedTuple

import torch
from torch import Tensor

from saetools.data.checks import check_count, check_number
from saetools.data.chicago import on_device


class SparseMixture(NamedTuple):
    """Synthetic rows x = offset + factors @ dictionary + noise, and what they were made from."""

    train: Tensor  # (rows, D) in [0, 1]
    test: Tensor  # (test_rows, D) in [0, 1]
    train_factors: Tensor  # (rows, K), 0 where a factor is off, else in [0.5, 1]
    test_factors: Tensor  # (test_rows, K)
    dictionary: Tensor  # (K, D), >= 0
    offset: float


def sparse_mixture(
    rows: int = 4096,
    *,
    test_rows: int = 1024,
    factors: int = 4,
    features: int = 20,
    frequency: float = 0.15,
    noise: float = 0.02,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> SparseMixture:
    """Rows that a few sparse causes explain, with those causes as ground truth.

    Each of K factors is on in a share `frequency`, in (0, 1], of the rows, independently, with a
    strength drawn uniformly from [0.5, 1]; each adds its dictionary row, uniform on half of the two
    or more features and 0 on the rest. Noise is uniform, of a half-width that is a fraction `noise`
    of the largest possible signal, so that the rows lie in [0, 1] without clipping. The seed is
    that of a generator of its own, on the CPU; `device` is as for `chicago_context`.

    Example:
        >>> sparse_mixture(1000, seed=0).train.shape
        torch.Size([1000, 20])
    """
    for name, count in {"rows": rows, "test_rows": test_rows, "factors": factors}.items():
        check_count(name, count)
    check_count("features", features, minimum=2)
    check_number("noise", noise, minimum=0)
    if check_number("frequency", frequency, above=0) > 1:
        raise ValueError(f"frequency must be at most 1, got {frequency}")

    generator = torch.Generator().manual_seed(check_count("seed", seed, minimum=0))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float32, device="cpu")

    support = uniform(factors, features).argsort(-1) < features // 2
    dictionary = uniform(factors, features) * support  # (K, D)
    largest = dictionary.sum(0).max()  # all factors on at full strength
    scale = 1 / (largest * (1 + 2 * noise))
    on = uniform(rows + test_rows, factors) < frequency
    strength = on * (0.5 + 0.5 * uniform(rows + test_rows, factors))  # (rows, K)
    error = noise * largest * (2 * uniform(rows + test_rows, features) - 1)
    offset = noise * largest * scale
    x = (offset + scale * (strength @ dictionary + error)).clamp(0, 1)  # against rounding only
    split = (x[:rows], x[rows:], strength[:rows], strength[rows:])
    return SparseMixture(*on_device(device, (*split, scale * dictionary, offset.item())))
