import pytest
import torch

from saetools import TopK, WinnerTakeAll
from saetools.tutorial import largest
from saetools.tutorial.comparison import measured, tasks
from saetools.tutorial.largest import TopKModel, WinnerTakeAllModel

DAYS = tasks()["days"]
SMALL = DAYS._replace(train=DAYS.train[::9], test=DAYS.test[::9], final=None)
STEPS = 7
SEEDS = (3, 8)


@pytest.mark.parametrize(("rho", "rows"), [(0.2, 128), (0.15, 77), (0.01, 20), (0.5, 1)])
def test_winner_take_all_keeps_the_largest_of_each_unit(rho, rows):
    x = torch.rand(rows, 20)
    model = WinnerTakeAllModel(seed=0, activation=WinnerTakeAll(4, rho))
    output = model(x)
    z, winners = model.encode(x), max(1, round(rho * rows))
    active = output.pre_activations > 0
    assert active.sum(0).tolist() == [winners] * 4
    for unit in range(4):
        largest = set(z[:, unit].argsort(descending=True)[:winners].tolist())
        assert set(active[:, unit].nonzero()[:, 0].tolist()) == largest
    assert torch.equal(output.latents, z * active)  # negative ones are kept as well
    assert torch.equal(output.reconstruction, model.decode(output.latents))
    output.latents.sum().backward()
    assert model.encoder[-1].bias.grad.tolist() == [winners] * 4  # losers learn nothing


def test_winner_take_all_takes_them_in_each_member_of_an_ensemble():
    x = torch.rand(3, 50, 20)
    model = WinnerTakeAllModel(seed=0, activation=WinnerTakeAll(4, torch.full((3, 4), 0.2)))
    active = model(x).pre_activations > 0
    assert (active.sum(-2) == 10).all()


def test_winner_take_all_is_trained_at_the_tasks_rho():
    task = SMALL._replace(rho=0.1)
    for row in measured(task, largest.winner_take_all(task, SEEDS, steps=STEPS)):
        assert row["near"] == row["units"] == 4
        assert row["worst"] <= 0.5 / len(task.train) + 1e-6


def test_winner_take_all_may_begin_at_the_recipes_start():
    default, start = (
        largest.winner_take_all(SMALL, [0], start=start, steps=1)[0].encode(SMALL.train)
        for start in (False, True)
    )
    assert start.std(0).min() > 0.9 > default.std(0).max()


@pytest.mark.parametrize("k", [1, 3])
def test_top_k_keeps_the_largest_of_a_row_that_are_above_0(k):
    model, x = TopKModel(seed=0, activation=TopK(k)), torch.rand(50, 20)
    out, z = model(x), model.encode(x)
    for row, latents, margin in zip(z, out.latents, out.pre_activations, strict=True):
        kept = [unit for unit in row.topk(k).indices.tolist() if row[unit] > 0]
        assert (latents != 0).nonzero().flatten().tolist() == sorted(kept)
        assert torch.equal(margin > 0, latents > 0)


def test_batch_top_k_keeps_the_largest_of_a_batch_and_then_has_a_threshold():
    [model] = largest.batch_top_k(SMALL, [0], steps=STEPS)
    z = model.encode(SMALL.train)
    assert not model.training
    out, kept = model(SMALL.train), z > model.activation.threshold
    assert torch.equal(out.latents, z.where(kept, 0).clamp(min=0))
    assert torch.equal(out.pre_activations > 0, kept)
    model.train()
    batch = SMALL.train[:128]
    kept = model(batch).latents > 0
    assert kept.sum() == min(round(0.2 * 4 * 128), int((model.encode(batch) > 0).sum()))
    assert model.encode(batch)[kept].min() >= model.encode(batch)[~kept].max()
