"""Real inputs: Chicago's weather and calendar, as rows in [0, 1]."""

import csv
import gzip
import math
from collections.abc import Iterable, Iterator
from datetime import date
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from torch import Tensor

TEST_SHARE = 0.2
CLIP = 0.001  # share of the training days clipped at either end, against recording errors


class ChicagoContext(NamedTuple):
    """Chicago's weather and calendar, one row per day, split by time."""

    train: Tensor  # (4558, 20) in [0, 1]
    test: Tensor  # (1140, 20) in [0, 1], the days after them
    feature_names: tuple[str, ...]  # 20
    train_ridership: Tensor  # (4558,), thousands of rides per day
    test_ridership: Tensor  # (1140,)
    train_dates: tuple[date, ...]
    test_dates: tuple[date, ...]


def chicago_context(*, device: str | torch.device | None = None) -> ChicagoContext:
    """Real 20-dimensional context vectors: 5,698 days in Chicago, 2001-01-22 to 2016-08-28.

    18 weather readings, the season (0 in midwinter, 1 in midsummer) and whether the day is at the
    weekend. The last 20 % of the days are the test set, since neighbouring days are alike. Each
    feature is clipped to its 0.1 % and 99.9 % quantiles and scaled to [0, 1]; both are fitted on
    the training days alone. Ridership is that of one station (Clark/Lake): a target for a
    downstream task, not an input. The tensors, float32, are on `device`; None is torch's default.

    Source: the Chicago data set of the R package modeldata, MIT; its licence lies beside the file.

    Example:
        >>> days = chicago_context()
        >>> days.train.shape, days.test.shape, days.feature_names[-2:]
        (torch.Size([4558, 20]), torch.Size([1140, 20]), ('season', 'weekend'))
    """
    path = files("saetools") / "data" / "chicago_daily_context.csv.gz"
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
    return ChicagoContext(*on_device(device, days))


def on_device(device: str | torch.device | None, fields: Iterable[Any]) -> Iterator[Any]:
    """The fields, those that are tensors on `device`, or on torch's default device."""
    place = torch.empty(0, device=device).device
    return (field.to(place) if isinstance(field, Tensor) else field for field in fields)
