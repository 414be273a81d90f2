import csv
import gzip
import math
from datetime import date
from importlib.resources import files

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saetools import chicago_context, sparse_mixture


@pytest.fixture(scope="module")
def days():
    return chicago_context()


@pytest.fixture(scope="module")
def records():
    path = files("saetools") / "data" / "chicago_daily_context.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_shapes_range_and_order_in_time(days):
    assert days.train.shape == (4558, 20)
    assert days.test.shape == (1140, 20)
    assert len(days.feature_names) == len(set(days.feature_names)) == 20
    for x in (days.train, days.test):
        assert x.dtype == torch.float32
        assert x.min() >= 0
        assert x.max() <= 1
    assert (days.train_dates[0], days.test_dates[-1]) == (date(2001, 1, 22), date(2016, 8, 28))
    dates = days.train_dates + days.test_dates
    assert list(dates) == sorted(set(dates))


def test_clip_and_scale_are_fitted_on_the_training_days_alone(days, records):
    column = days.feature_names.index("wind_max")
    wind = torch.tensor([float(record["wind_max"]) for record in records])
    low, high = wind[:4558].quantile(torch.tensor([0.001, 0.999]))
    expected = ((wind.clamp(low, high) - low) / (high - low)).tolist()
    assert days.train[:, column].tolist() == pytest.approx(expected[:4558], abs=1e-6)
    assert days.test[:, column].tolist() == pytest.approx(expected[4558:], abs=1e-6)
    # The recording error is in the file, and not in the tensors.
    assert wind.max() > 400 > 5 * high


def test_each_training_feature_uses_the_whole_range(days):
    assert (days.train.min(0).values == 0).all()
    assert (days.train.max(0).values == 1).all()


def test_season_and_weekend_come_from_the_date(days):
    season, weekend = days.train[:, -2], days.train[:, -1]
    for row in (0, 100, 2000):
        day = days.train_dates[row]
        assert weekend[row] == (day.isoweekday() > 5)
        turn = 2 * math.pi * day.timetuple().tm_yday / 365.25
        assert season[row].item() == pytest.approx((1 - math.cos(turn)) / 2, abs=2e-3)


def test_ridership_belongs_to_the_same_days(days, records):
    rides = [float(record["ridership"]) for record in records]
    assert days.train_ridership.tolist() == pytest.approx(rides[:4558])
    assert days.test_ridership.tolist() == pytest.approx(rides[4558:])


def test_known_facts_of_the_file(days):
    assert (days.train == 0).float().mean().item() == pytest.approx(0.267, abs=0.001)


def test_mixture_is_what_it_was_made_from():
    noise = 0.02
    mixture = sparse_mixture(2000, noise=noise, seed=3)
    signal = mixture.offset + mixture.train_factors @ mixture.dictionary
    largest = mixture.dictionary.sum(0).max()
    assert (mixture.train - signal).abs().max() <= noise * largest * 1.001
    assert (mixture.train - signal).std() > 0.3 * noise * largest
    strengths = mixture.train_factors[mixture.train_factors > 0]
    assert strengths.min() >= 0.5
    assert strengths.max() <= 1
    assert ((mixture.dictionary > 0).sum(-1) == 10).all()


def test_factors_are_on_as_often_as_asked_and_independent():
    on = (sparse_mixture(40_000, frequency=0.15, seed=1).train_factors > 0).float()
    assert on.mean(0).tolist() == pytest.approx([0.15] * 4, abs=0.01)
    assert torch.corrcoef(on.T).triu(1).abs().max() < 0.02


@settings(max_examples=30)
@given(
    factors=st.integers(1, 6),
    features=st.integers(2, 30),
    noise=st.floats(0, 2),
    frequency=st.floats(0.01, 1),
    seed=st.integers(0, 2**31),
)
def test_mixture_always_lies_in_the_unit_interval(factors, features, noise, frequency, seed):
    mixture = sparse_mixture(
        50,
        test_rows=10,
        factors=factors,
        features=features,
        noise=noise,
        frequency=frequency,
        seed=seed,
    )
    for x in (mixture.train, mixture.test):
        assert x.isfinite().all()
        assert x.min() >= 0
        assert x.max() <= 1


def test_mixture_is_seeded_and_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    first, again, other = (sparse_mixture(20, seed=seed).train for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rows": 0}, ValueError, "rows must be at least 1, got 0"),
        ({"rows": 2.5}, TypeError, "rows must be an int, got 2.5"),
        ({"factors": True}, TypeError, "factors must be an int, got True"),
        ({"features": 1}, ValueError, "features must be at least 2, got 1"),
        ({"frequency": 0}, ValueError, "frequency must be finite and greater than 0, got 0"),
        ({"frequency": 1.5}, ValueError, "frequency must be at most 1, got 1.5"),
        ({"noise": -0.1}, ValueError, "noise must be finite and at least 0, got -0.1"),
        ({"noise": math.nan}, ValueError, "noise must be finite"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        sparse_mixture(**arguments)


def test_the_device_is_asked_for_or_torchs_default():
    for made in (chicago_context(device="cpu"), sparse_mixture(16, test_rows=4, device="cpu")):
        assert {value.device.type for value in made if isinstance(value, torch.Tensor)} == {"cpu"}
    elsewhere = sparse_mixture(16, test_rows=4, device="meta")  # "meta" holds no values
    assert elsewhere.train.device.type == elsewhere.dictionary.device.type == "meta"
    assert chicago_context(device="meta").test.device.type == "meta"
    with torch.device("meta"):
        assert sparse_mixture(16, test_rows=4, device="cpu").train.device.type == "cpu"
        assert sparse_mixture(16, test_rows=4).train.device.type == "meta"
