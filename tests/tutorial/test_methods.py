import math

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from saetools import (
    Output,
    PostedAutoencoder,
    SparseAutoencoder,
    posted_penalty,
    train,
    train_ensemble,
)
from saetools.tutorial import methods
from saetools.tutorial.comparison import measured, tasks
from saetools.tutorial.methods import FIXES, WinnerTakeAll, recommended, with_fixes

DAYS = tasks()["days"]
SMALL = DAYS._replace(train=DAYS.train[::9], test=DAYS.test[::9])  # 507 and 127 rows
STEPS = 7
SEEDS = (3, 8)


def parameters(models):
    return [value.detach() for model in models for value in model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def untrained(kind=SparseAutoencoder):
    return [kind(seed=seed) for seed in SEEDS]


def test_all_fixes_make_the_recipe():
    for fixes in (FIXES, FIXES[::-1]):
        made = with_fixes(SMALL, SEEDS, fixes, steps=21)
        recipe = recommended(SMALL, SEEDS, steps=21)
        for one, other in zip(parameters(made), parameters(recipe), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_no_fix_trains_as_without_a_penalty():
    plain = untrained(PostedAutoencoder)
    train_ensemble(plain, SMALL.train, None, steps=STEPS, seeds=SEEDS)
    made = with_fixes(SMALL, SEEDS, (), steps=STEPS)
    assert same(parameters(made), parameters(plain))
    for count, ends in (("hard", "clamp"), ("hard", "overwrite")):
        made = with_fixes(SMALL, SEEDS, (), count=count, ends=ends, steps=STEPS)
        assert same(parameters(made), parameters(plain))


def test_no_fix_is_the_posts_network_under_the_posts_penalty():
    [model] = with_fixes(SMALL, [3], (), steps=STEPS)
    posted = PostedAutoencoder(seed=3)

    def as_posted(output):
        return posted_penalty(output.latents, batch_size=20 * len(output.latents), rho=SMALL.rho)

    train(posted, SMALL.train, as_posted, steps=STEPS, seed=3)
    for a, b in zip(model.parameters(), posted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def penalty_of(monkeypatch, *fixes, **options):
    """The penalty that `with_fixes` trains with."""
    caught = []
    monkeypatch.setattr(methods, "train_ensemble", lambda *args, **_: caught.append(args[2]))
    with_fixes(SMALL, [0], fixes, steps=STEPS, **options)
    return caught[0]


def test_the_penalty_without_a_fix_has_the_posts_value_also_at_the_ends(monkeypatch):
    penalty = penalty_of(monkeypatch)
    z = torch.randn(50, 4)
    z[:, 1], z[:, 2] = -1, 1
    z.requires_grad_()
    cost = penalty(Output(z, z.relu(), z))
    expected = posted_penalty(z.relu(), batch_size=20 * 50, rho=SMALL.rho)
    assert cost.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not cost.requires_grad


@pytest.mark.parametrize(
    ("fixes", "options", "moved"),  # units in between, dead, always on: which have a gradient
    [
        ((), {"count": "soft"}, [True, True, True]),
        (["straight-through"], {}, [True, False, False]),
        (["straight-through"], {"ends": "clamp"}, [True, False, False]),
        (["straight-through", "smoothing"], {}, [True, True, True]),
    ],
)
def test_which_units_a_penalty_moves(monkeypatch, fixes, options, moved):
    penalty = penalty_of(monkeypatch, *fixes, **options)
    z = torch.randn(50, 3)
    z[:, 1], z[:, 2] = -0.5, 0.5
    z.requires_grad_()
    cost = penalty(Output(z, z.relu(), z))
    cost.backward()
    assert math.isfinite(cost.item())
    assert (z.grad != 0).any(0).tolist() == moved


@pytest.mark.parametrize("left_out", FIXES)
def test_each_fix_makes_a_difference(left_out):
    fixes = [fix for fix in FIXES if fix != left_out]
    every, some = (with_fixes(SMALL, SEEDS, chosen, steps=STEPS) for chosen in (FIXES, fixes))
    assert not same(parameters(every), parameters(some))


def test_the_output_layer_is_the_posts_but_for_its_fix():
    for fixes, output in (((), torch.relu), (["sigmoid output"], torch.sigmoid)):
        assert with_fixes(SMALL, [0], fixes, steps=1)[0].output is output


def test_an_unknown_fix_is_refused():
    with pytest.raises(ValueError, match=r"fixes must be of \('sigmoid.*, got \['luck'\]"):
        with_fixes(SMALL, SEEDS, ["smoothing", "luck"], steps=STEPS)


def test_the_recipe_passes_sizes_and_options_on():
    [model] = recommended(SMALL, [0], sizes=(20, 6), steps=STEPS, skewed=False, rho=0.3)
    assert model.sizes == (20, 6)
    z = model.encode(SMALL.train)
    assert ((z > 0).double().mean(0) - 0.3).abs().max() <= 1 / len(z)


def test_other_methods_differ_from_no_penalty_by_their_penalty_alone():
    none = parameters(methods.unpenalised(SMALL, SEEDS, steps=STEPS))
    assert same(none, parameters(methods.with_l1(SMALL, SEEDS, 0.0, steps=STEPS)))
    assert not same(none, parameters(methods.with_l1(SMALL, SEEDS, 0.1, steps=STEPS)))


@pytest.mark.parametrize(
    "method", [methods.unpenalised, methods.with_multipliers, methods.winner_take_all]
)
def test_other_methods_have_the_recipes_rates(method):
    rates, end = [], STEPS * 2 // 7
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    try:
        method(SMALL, SEEDS, steps=STEPS)
    finally:
        hook.remove()
    expected = [1.5e-3 * min(1, (k + 1) / end, (STEPS - k) / end) for k in range(STEPS)]
    assert rates == pytest.approx(expected)


def test_l1_lowers_the_mean_latents():
    def mean(weight):
        [model] = methods.with_l1(SMALL, [0], weight, steps=60)
        return model(SMALL.train).latents.mean().item()

    assert mean(1.0) < 0.5 * mean(0.0)


def test_multipliers_start_as_the_recipe_and_take_its_options():
    slow = methods.with_multipliers(SMALL, SEEDS, steps=STEPS, rate=1e-9, damping=0.0)
    fast = methods.with_multipliers(SMALL, SEEDS, steps=STEPS, rate=1.0)
    assert not same(parameters(slow), parameters(fast))
    start = untrained()
    methods.start_at_frequency_(start, SMALL.train, rho=SMALL.rho)
    for trained, begun in zip(slow, start, strict=True):
        near, far = (trained.encoder[-1].weight - other for other in (begun.encoder[-1].weight, 0))
        assert near.norm() < 0.2 * far.norm()  # a few steps from there


@pytest.mark.parametrize(("rho", "rows"), [(0.2, 128), (0.15, 77), (0.01, 20), (0.5, 1)])
def test_winner_take_all_keeps_the_largest_of_each_unit(rho, rows):
    model, x = WinnerTakeAll(seed=0), torch.rand(rows, 20)
    model.rho = rho
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
    active = WinnerTakeAll(seed=0)(x).pre_activations > 0
    assert (active.sum(-2) == 10).all()


def test_winner_take_all_is_trained_at_the_tasks_rho():
    task = SMALL._replace(rho=0.1)
    row = measured(task, methods.winner_take_all(task, SEEDS, steps=STEPS))
    assert row["near"] == row["units"] == 8
    assert row["worst"] <= 0.5 / len(task.train) + 1e-6


def test_multipliers_that_are_held_end_at_the_frequency_exactly():
    options = {"steps": 70, "damping": 1.0}
    row = measured(SMALL, methods.with_multipliers(SMALL, SEEDS, hold=True, **options))
    assert row["worst"] <= 1 / len(SMALL.train)
    free = measured(SMALL, methods.with_multipliers(SMALL, SEEDS, **options))
    assert free["worst"] > 0.01
