import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from saetools import (
    Output,
    SparseAutoencoder,
)
from saetools.tutorial import largest, methods, rivals
from saetools.tutorial.comparison import measured, tasks
from saetools.tutorial.methods import recommended

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
    "method",
    [
        methods.unpenalised,
        methods.with_multipliers,
        largest.winner_take_all,
        largest.batch_top_k,
        largest.top_k,
        rivals.jump_relu,
        rivals.hard_concrete,
        rivals.tracked_threshold,
    ],
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


def test_multipliers_that_are_held_end_at_the_frequency_exactly():
    options = {"steps": 70, "damping": 1.0}
    held = measured(SMALL, methods.with_multipliers(SMALL, SEEDS, hold=True, **options))
    assert max(row["worst"] for row in held) <= 1 / len(SMALL.train)
    free = measured(SMALL, methods.with_multipliers(SMALL, SEEDS, **options))
    assert min(row["worst"] for row in free) > 0.005


def test_plans_that_are_trained_together_end_as_each_does_alone():
    makers = [
        lambda: methods.multipliers_plan(SMALL, SEEDS, damping=1.0),
        lambda: methods.unpenalised_plan(SMALL, SEEDS),
        lambda: methods.square_plan(SMALL, SEEDS),
        lambda: methods.l1_plan(SMALL, SEEDS, 0.1),
    ]
    both = methods.together(SMALL, SEEDS, [make() for make in makers], steps=STEPS)
    for make, found in zip(makers, both, strict=True):
        [alone] = methods.together(SMALL, SEEDS, [make()], steps=STEPS)
        for one, other in zip(parameters(found), parameters(alone), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_plans_of_two_ways_are_not_trained_together():
    plans = [methods.recipe_plan(SMALL, [0]), methods.unpenalised_plan(SMALL, [0])]
    with pytest.raises(ValueError, match="too many values"):
        methods.together(SMALL, [0], plans, steps=STEPS)


def test_the_recipes_plan_is_the_recipe():
    [planned] = methods.together(SMALL, SEEDS, [methods.recipe_plan(SMALL, SEEDS)], steps=21)
    recipe = recommended(SMALL, SEEDS, steps=21)
    for one, other in zip(parameters(planned), parameters(recipe), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_square_is_of_the_relative_miss_and_finite_at_its_ends():
    penalty = methods.square_plan(SMALL, [0], weight=0.5).penalty
    z = torch.full((10, 3), -0.4)
    z[:4, 1], z[:, 2] = 0.4, 0.4  # never, on 4 of 10, always: rho is 0.2
    z.requires_grad_()
    cost = penalty(Output(z, z.relu(), z))
    assert cost.item() == pytest.approx(0.5 * (1 + 1 + 16))
    cost.backward()
    assert (z.grad.sum(0) < 0).tolist() == [True, False, False]


def test_several_frequencies_at_once_are_each_the_recipe():
    several = methods.at_frequencies(SMALL, SEEDS, (0.1, 0.3), steps=21)
    for rho, found in zip((0.1, 0.3), several, strict=True):
        alone = recommended(SMALL, SEEDS, rho=rho, steps=21)
        for one, other in zip(parameters(found), parameters(alone), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        assert all(p.requires_grad for model in found for p in model.parameters())
