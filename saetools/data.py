"""Inputs to train on, as tensors in [0, 1]: real ones, and synthetic ones with known causes."""

import csv
import gzip
import math
from collections.abc import Iterable, Iterator
from datetime import date
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saetools._checks import check_count, check_number

TEST_SHARE = 0.2
CLIP = 0.001  # share of the training days clipped at either end, against recording errors


class ChicagoContext(NamedTuple):
    """Chicago's weather and calendar, one row a day, split by time."""

    train: Tensor  # (4558, 20) in [0, 1]
    test: Tensor  # (1140, 20) in [0, 1], the days after them
    feature_names: tuple[str, ...]  # 20
    train_ridership: Tensor  # (4558,), thousands of rides a day
    test_ridership: Tensor  # (1140,)
    train_dates: tuple[date, ...]
    test_dates: tuple[date, ...]


def chicago_context(*, device: str | torch.device | None = None) -> ChicagoContext:
    """Real 20-dimensional context vectors: 5,698 days in Chicago, 2001-01-22 to 2016-08-28.

    18 weather readings, the season ((1 - cos(2 pi day_of_year / 365.25)) / 2: 0 in midwinter,
    1 in midsummer) and whether the day is at the weekend. The last 20 % of the days are the
    test set, since neighbouring days are alike. Each feature is clipped to its 0.1 % and 99.9 %
    quantiles and scaled to [0, 1]; both are fitted on the training days alone.

    Args:
        device: where the tensors are to be; None for torch's default device.

    Returns:
        ChicagoContext, float32. Ridership is that of one station (Clark/Lake): a target for a
        downstream task, not an input.

    Source: the Chicago data set of the R package modeldata, MIT licence; the licence lies
    beside the file.

    Example:
        >>> days = chicago_context()
        >>> days.train.shape, days.test.shape, days.feature_names[-2:]
        (torch.Size([4558, 20]), torch.Size([1140, 20]), ('season', 'weekend'))
    """
    path = files("saetools") / "chicago" / "chicago_daily_context.csv.gz"
    with path.open("rb") as raw, gzip.open(raw, "rt", encoding="utf-8", newline="") as text:
        records = list(csv.DictReader(text))
    dates = tuple(date.fromisoformat(record.pop("date")) for record in records)
    ridership = torch.tensor([float(record.pop("ridership")) for record in records])
    weather = torch.tensor([[float(value) for value in record.values()] for record in records])
    day_of_year = torch.tensor([float(day.timetuple().tm_yday) for day in dates])
    season = (1 - torch.cos(2 * math.pi * day_of_year / 365.25)) / 2
    weekend = torch.tensor([float(day.weekday() >= 5) for day in dates])
    x = torch.column_stack([weather, season, weekend])

    split = int((1 - TEST_SHARE) * len(x))
    low, high = x[:split].quantile(torch.tensor([CLIP, 1 - CLIP]), dim=0)
    x = (x.clamp(low, high) - low) / (high - low)
    days = ChicagoContext(
        train=x[:split],
        test=x[split:],
        feature_names=(*records[0], "season", "weekend"),
        train_ridership=ridership[:split],
        test_ridership=ridership[split:],
        train_dates=dates[:split],
        test_dates=dates[split:],
    )
    return ChicagoContext(*_on(device, days))


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

    Each factor is on in a share `frequency` of the rows, independently, with a strength drawn
    uniformly from [0.5, 1]; each adds its dictionary row, uniform on half of the features and 0
    on the rest. Noise is uniform and bounded, so the rows lie in [0, 1] without clipping.

    Args:
        rows: training rows.
        test_rows: test rows, from the same distribution.
        factors: number of causes K.
        features: dimension D of a row, two or more.
        frequency: share of the rows on which a factor is on, in (0, 1].
        noise: half-width of the noise, as a fraction of the largest possible signal.
        seed: of everything drawn, on the CPU; the global random state is not used.
        device: where the tensors are to be; None for torch's default device.

    Returns:
        SparseMixture, float32; train and test satisfy
        x = offset + factors @ dictionary + noise.

    Raises:
        TypeError, ValueError: if an argument is not as above.

    Example:
        >>> mixture = sparse_mixture(1000, seed=0)
        >>> mixture.train.shape, mixture.dictionary.shape
        (torch.Size([1000, 20]), torch.Size([4, 20]))
    """
    for name, count in (("rows", rows), ("test_rows", test_rows), ("factors", factors)):
        check_count(name, count)
    check_count("features", features, minimum=2)
    check_number("noise", noise, minimum=0)
    if check_number("frequency", frequency, above=0) > 1:
        raise ValueError(f"frequency must be at most 1, got {frequency}")

    generator = torch.Generator().manual_seed(seed)

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
    mixture = SparseMixture(
        train=x[:rows],
        test=x[rows:],
        train_factors=strength[:rows],
        test_factors=strength[rows:],
        dictionary=scale * dictionary,
        offset=offset.item(),
    )
    return SparseMixture(*_on(device, mixture))


def _on(device: str | torch.device | None, fields: Iterable[Any]) -> Iterator[Any]:
    """The fields, those that are tensors on `device`, or on torch's default device."""
    place = torch.empty(0, device=device).device
    return (field.to(place) if isinstance(field, Tensor) else field for field in fields)
