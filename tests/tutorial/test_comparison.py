import csv
import math

import pytest
import torch

from saetools import Output
from saetools.tutorial.comparison import (
    Task,
    crowded_task,
    curved_task,
    measured,
    read_grid,
    results,
    tasks,
)


def test_the_tasks_are_the_series_data():
    days, mixture = tasks().values()
    assert [len(x) for x in (days.train, days.test, days.final)] == [4558, 409, 731]
    assert days.test_factors is None
    assert len(mixture.test) == len(mixture.test_factors)
    assert mixture.test_factors.shape[1] == 4


@pytest.mark.parametrize(("make", "factors"), [(crowded_task, 12), (curved_task, 4)])
def test_hard_tasks_lie_in_the_range_and_know_their_factors(make, factors):
    task, again, other = make(3), make(3), make(4)
    assert torch.equal(task.train, again.train)
    assert not torch.equal(task.train, other.train)
    for x in (task.train, task.test):
        assert x.shape[1] == task.sizes[0]
        assert x.min() >= 0
        assert x.max() <= 1
    assert task.test_factors.shape == (len(task.test), factors)
    assert task.sizes[-1] == factors


def rows_on(*counts, rows):
    """Pre-activations of which each unit's first so many are above 0."""
    return torch.stack([torch.where(torch.arange(rows) < count, 1.0, -1.0) for count in counts], -1)


def made_by_hand(*, factors, final=False):
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
    last = test if final else None
    task = Task("by hand", torch.rand(train_rows, 5), test, 0.2, known, last)
    return measured(task, [model(name) for name in codes])


def test_a_row_of_the_grid_counts_what_it_says():
    a, b, c = made_by_hand(factors=False)
    expected = {
        "units": 3,
        "fvu": 0.0,
        "near": 1,  # 0.2, and not 0 and 1
        "worst": 0.8,
        "worst_test": 0.2,
        "frequency": 0.4,
        "dead": 1,
        "dense": 1,
        "none": 0.0,
    }
    assert a == pytest.approx(expected, abs=1e-6)
    for name in ("units", "near", "dead", "dense"):
        assert isinstance(a[name], int)
    assert (b["near"], b["fvu"], b["none"]) == (2, pytest.approx(1), pytest.approx(0.77))
    assert (c["near"], c["worst_test"]) == (0, pytest.approx(0.7))


def test_rows_kept_apart_are_measured_apart():
    [row, *_] = made_by_hand(factors=False, final=True)
    assert row["fvu_final"] == pytest.approx(0)
    assert row["worst_final"] == pytest.approx(0.2)


def test_a_task_with_factors_is_matched_on_its_test_rows():
    a, b, c = made_by_hand(factors=True)
    # a's first unit is a factor, its others never vary; c's units are the factors. Each of b's is
    # the first factor, which lies inside the other two: phi^2 is a ratio of odds there.
    shared = (1 + math.sqrt((2 / 8) / (9 / 1)) + math.sqrt((2 / 8) / (5 / 5))) / 3
    assert [row["match"] for row in (a, b, c)] == pytest.approx([1 / 3, shared, 1])
    assert b["share"] == pytest.approx(1)  # as high as its frequencies allow
    assert a["share"] == pytest.approx(1 / 3)
    assert c["auc"] == pytest.approx(1)
    assert a["auc"] == pytest.approx(2 / 3)  # 1, and twice a half


def test_a_grid_is_read_as_it_was_written(tmp_path):
    rows = [
        {"group": "a", "method": "0.5", "task": "by hand", **made_by_hand(factors=True)[0]},
        {"group": "b", "method": "plain", "task": "by hand", **made_by_hand(factors=False)[0]},
    ]
    path = tmp_path / "comparison.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert read_grid(path) == rows  # without the cells that a row does not have
    with pytest.raises(FileNotFoundError):
        read_grid(tmp_path / "nothing.csv")


def test_a_benchmarks_table_is_found_and_read_with_its_texts_and_numbers():
    [row, *_] = rows = read_grid(results("large_codes_cuda.csv"))
    assert len(rows) > 60
    assert (row["method"], row["latents"], row["device"]) == ("BatchTopK", 512, "cuda")
    assert 0 < row["fvu"] < 1
