import itertools

import pytest
import torch

from saetools import batches

X = torch.rand(100, 20, generator=torch.Generator().manual_seed(0))


def test_batches_are_a_new_permutation_each_epoch_and_keep_the_last_rows():
    x = torch.arange(10.0)[:, None]
    stream = batches(x, 4, seed=0)
    epochs = [[next(stream) for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert torch.equal(torch.cat(epoch).flatten().sort().values, x.flatten())
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))


@pytest.mark.parametrize(("rows", "batch_size"), [(10, 4), (8, 4), (3, 5), (9, 1), (300, 2)])
def test_skipped_batches_are_left_out_and_nothing_else(rows, batch_size):
    x = torch.arange(float(rows))[:, None]
    expected = list(itertools.islice(batches(x, batch_size, seed=5), 320))
    for skip in (0, 1, 2, 3, 4, 9, 149, 150, 151, 300):
        got = list(itertools.islice(batches(x, batch_size, seed=5, skip=skip), 320 - skip))
        assert [batch.tolist() for batch in got] == [batch.tolist() for batch in expected[skip:]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[:0], 4, 0), ValueError, r"x must have at least one row, got shape \(0, 20\)"),
        ((X, 0, 0), ValueError, "batch_size must be at least 1, got 0"),
        ((X, 4, 1.5), TypeError, "seed must be an int, got 1.5"),
        ((X, 4, -1), ValueError, "seed must be at least 0, got -1"),
        ((X, 4, 0, -1), ValueError, "skip must be at least 0, got -1"),
        ((X, 4, 0, 1.0), TypeError, r"skip must be an int, got 1\.0"),
    ],
)
def test_bad_batches_are_refused_at_the_call(arguments, error, message):
    x, batch_size, seed, *skip = arguments
    with pytest.raises(error, match=message):
        batches(x, batch_size, seed=seed, skip=skip[0] if skip else 0)
