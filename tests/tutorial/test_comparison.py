import csv
import math

import pytest
import torch

from saetools import Output
from saetools.tutorial.comparison import Task, measured, read_grid, tasks


def test_the_tasks_are_the_series_data():
    days, mixture = tasks().values()
    assert (days.train.shape, days.test.shape) == ((4558, 20), (1140, 20))
    assert days.test_factors is None
    assert len(mixture.test) == len(mixture.test_factors)
    assert mixture.test_factors.shape[1] == 4


def rows_on(*counts, rows):
    """Pre-activations of which each unit's first so many are above 0."""
    return torch.stack([torch.where(torch.arange(rows) < count, 1.0, -1.0) for count in counts], -1)


def made_by_hand(*, factors):
    train_rows, test_rows = 100, 10
    test = torch.rand(test_rows, 5)
    codes = {  # by model: what it does on the training rows, and on the test rows
        "a": (rows_on(20, 0, 100, rows=train_rows), rows_on(2, 0, 0, rows=test_rows)),
        "b": (rows_on(21, 23, 18, rows=train_rows), rows_on(2, 2, 2, rows=test_rows)),
        "c": (rows_on(50, 50, 50, rows=train_rows), rows_on(2, 9, 5, rows=test_rows)),
    }
    left = {"a": 0.0, "b": 1.0, "c": 0.5}  # share of the spread that a reconstruction lacks

    def model(name):
        def forward(x):
            z = codes[name][0 if len(x) == train_rows else 1]
            return Output(x + left[name] * (x.mean(0) - x), z.relu(), z)

        return forward

    known = rows_on(2, 9, 5, rows=test_rows).relu() if factors else None
    task = Task("by hand", torch.rand(train_rows, 5), test, 0.2, known)
    return measured(task, [model(name) for name in codes])


def test_a_row_of_the_grid_counts_what_it_says():
    row = made_by_hand(factors=False)
    expected = {
        "units": 9,
        "models": 3,
        "fvu": 0.25,
        "fvu_least": 0.0,
        "fvu_most": 1.0,
        "near": 3,  # 0.2, 0.21 and 0.18
        "worst": 0.8,
        "worst_test": 0.7,
        "frequency": (20 + 0 + 100 + 21 + 23 + 18 + 150) / 900,
        "dead": 1,
        "dense": 1,
        "none": 0.5,  # a: 0, b: 0.77, c: 0.5
    }
    assert row == pytest.approx(expected, abs=1e-6)
    for name in ("units", "models", "near", "dead", "dense"):
        assert isinstance(row[name], int)


def test_a_task_with_factors_is_matched_on_its_test_rows():
    row = made_by_hand(factors=True)
    bare = made_by_hand(factors=False)
    assert set(row) - set(bare) == {"match", "match_least", "match_good"}
    # a's first unit is a factor, its others never vary; c's units are the factors. Each of b's is
    # the first factor, which lies inside the other two: phi^2 is a ratio of odds there.
    shared = (1 + math.sqrt((2 / 8) / (9 / 1)) + math.sqrt((2 / 8) / (5 / 5))) / 3
    assert row["match"] == pytest.approx(shared)
    assert row["match_least"] == pytest.approx(1 / 3)
    assert row["match_good"] == 1


def test_a_grid_is_read_as_it_was_written(tmp_path):
    rows = [
        {"group": "a", "method": "0.5", "task": "by hand", **made_by_hand(factors=True)},
        {"group": "b", "method": "plain", "task": "by hand", **made_by_hand(factors=False)},
    ]
    path = tmp_path / "comparison.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert read_grid(path) == rows  # without the cells that a row does not have
    with pytest.raises(FileNotFoundError):
        read_grid(tmp_path / "nothing.csv")
