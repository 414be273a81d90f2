import math

import pytest
import torch

from saetools import Output, SparseAutoencoder, activation_frequency, frequency_penalty, train
from saetools.training.multipliers import FrequencyMultipliers
from saetools.training.recipe import DEFAULTS, recommended
from saetools.tutorial.methods import recipe_penalty


def seen(z):
    return Output(z, z.relu(), z)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_price_rises_while_its_unit_is_on_too_often_and_falls_while_it_is_not():
    constraint = FrequencyMultipliers(rho=0.5, rate=0.1)
    z = torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, -1.0]])  # on always, never, and at rho
    assert constraint.multipliers is None
    for calls in (1, 2, 3):
        constraint(seen(z))
        assert constraint.multipliers.tolist() == pytest.approx([0.05 * calls, -0.05 * calls, 0])
    constraint(seen(-z))
    assert constraint.multipliers.tolist() == pytest.approx([0.1, -0.1, 0])
    assert not constraint.multipliers.requires_grad


@pytest.mark.parametrize("rho", [0.2, torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)])
def test_value_and_gradient_are_the_formula_of_the_docstring(rho):
    constraint = FrequencyMultipliers(rho=rho, rate=0.2, damping=0.7, temperature=0.4)
    prices = 0.0
    for call in range(3):  # the prices grow meanwhile
        z = (normal(50, 4, seed=call) + 0.5).requires_grad_()
        cost = constraint(seen(z))
        cost.backward()
        with torch.no_grad():
            rho_hat = (z > 0).double().mean(0)
            prices = prices + 0.2 * (rho_hat - rho)
            expected = prices * rho_hat + 0.7 * (rho_hat - rho) ** 2 / 2
            soft = 1 / (1 + torch.exp(-z / 0.4))
            slope = soft * (1 - soft) / 0.4 / 50  # of the share, as the sigmoid stands in for it
            gradient = (prices + 0.7 * (rho_hat - rho)) * slope
        assert cost.shape == ()
        torch.testing.assert_close(constraint.multipliers, prices)
        torch.testing.assert_close(cost.detach(), expected.sum())
        torch.testing.assert_close(z.grad, gradient)


def test_the_defaults_are_as_documented():
    z = normal(50, 4)
    named = FrequencyMultipliers(rho=0.2, rate=3e-3, damping=0.3, temperature=0.3)
    assert torch.equal(FrequencyMultipliers(rho=0.2)(seen(z)), named(seen(z)))


def test_an_ensemble_is_its_members_one_by_one():
    rho = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64)
    together = FrequencyMultipliers(rho=rho)
    alone = [FrequencyMultipliers(rho=share.item()) for share in rho]
    for call in range(3):
        z = normal(3, 40, 5, seed=call).requires_grad_()
        cost = together(seen(z))
        cost.sum().backward()
        assert cost.shape == (3,)
        assert together.multipliers.shape == (3, 5)
        for member, constraint in enumerate(alone):
            own = z[member].detach().requires_grad_()
            expected = constraint(seen(own))
            expected.backward()
            torch.testing.assert_close(cost[member], expected)
            torch.testing.assert_close(together.multipliers[member], constraint.multipliers)
            torch.testing.assert_close(z.grad[member], own.grad)


def test_each_training_has_prices_of_its_own():
    first, second = FrequencyMultipliers(rho=0.2), FrequencyMultipliers(rho=0.2)
    first(seen(normal(9, 2) + 1))
    assert second.multipliers is None


def test_a_state_goes_on_where_another_stopped():
    batches, through = normal(6, 30, 4), FrequencyMultipliers(rho=0.2)
    costs = []
    for number, batch in enumerate(batches):
        if number in (0, 3):
            again = FrequencyMultipliers(rho=0.2)
            again.load_state_dict(through.state_dict())
        costs.append((through(seen(batch)), again(seen(batch))))
    assert all(torch.equal(a, b) for a, b in costs)
    assert torch.equal(through.multipliers, again.multipliers)


def test_duplicating_the_batch_changes_nothing():
    once, many = FrequencyMultipliers(rho=0.2), FrequencyMultipliers(rho=0.2)
    z = normal(30, 4)
    for _ in range(2):
        torch.testing.assert_close(once(seen(z)), many(seen(z.repeat(4, 1))))
    torch.testing.assert_close(once.multipliers, many.multipliers)


def settled(penalty, *, steps=1000):
    """Frequencies over the last 100 steps of two units whose biases are pulled upwards."""
    rows = normal(400, 2)
    pull = torch.tensor([0.05, 0.15], dtype=torch.float64)  # what the error would be worth
    bias = torch.full((2,), -0.84, dtype=torch.float64, requires_grad=True)  # near 0.2
    descent = torch.optim.SGD([bias], lr=0.1)
    path = []
    for _ in range(steps):
        z = rows + bias
        descent.zero_grad()
        (penalty(seen(z)) - (pull * bias).sum()).backward()
        descent.step()
        path.append(activation_frequency(z.detach()))
    return torch.stack(path[-100:])


def test_units_settle_at_rho_where_under_a_weight_they_do_not():
    rho = torch.tensor([0.3, 0.1], dtype=torch.float64)
    ends = settled(FrequencyMultipliers(rho=rho, rate=0.03))
    assert (ends - rho).abs().max() < 0.03
    assert (ends.mean(0) - rho).abs().max() < 0.015
    for weight in (0.2, 1.0):

        def penalty(output, weight=weight):
            return frequency_penalty(output.pre_activations, rho=rho, weight=weight)

        assert (settled(penalty).mean(0) - rho).abs().max() > 0.08


def test_without_damping_they_swing_for_longer():
    damped, free = (
        (settled(FrequencyMultipliers(rho=0.2, rate=0.03, damping=d)) - 0.2).abs().max()
        for d in (0.3, 0.0)
    )
    assert free > 2 * damped


def test_it_is_a_penalty_that_train_takes():
    x = torch.rand(200, 20)
    constraint = FrequencyMultipliers(rho=0.2)
    history = train(SparseAutoencoder(seed=0), x, constraint, steps=5)
    assert history.penalty.isfinite().all()
    assert constraint.multipliers.shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rate": 0}, ValueError, "rate must be finite and greater than 0, got 0"),
        ({"rate": math.nan}, ValueError, "rate must be finite and greater than 0, got nan"),
        ({"rate": "1"}, TypeError, "rate must be a number, got '1'"),
        ({"damping": -0.1}, ValueError, "damping must be finite and at least 0, got -0.1"),
        ({"damping": None}, TypeError, "damping must be a number, got None"),
        ({"temperature": 0}, ValueError, "temperature must be finite and greater than 0, got 0"),
    ],
)
def test_bad_settings_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        FrequencyMultipliers(**({"rho": 0.2} | arguments))


@pytest.mark.parametrize("rho", [0, 1.5, None, True, "a"])
def test_a_target_that_is_no_frequency_is_refused(rho):
    with pytest.raises((TypeError, ValueError), match="rho must"):
        FrequencyMultipliers(rho=rho)


@pytest.mark.parametrize("rho", [0.2, torch.tensor([0.1, 0.2, 0.3, 0.4])])
def test_a_divergence_adds_the_kl_of_the_penalty(rho):
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = Output(z, z.relu(), z)
    without = FrequencyMultipliers(rho=rho)(output)
    cost = FrequencyMultipliers(rho=rho, divergence=0.3)(output)
    expected = without + 0.3 * frequency_penalty(z, rho=rho)
    torch.testing.assert_close(cost, expected)
    by_z = [torch.autograd.grad(each, z, retain_graph=True)[0] for each in (cost, expected)]
    torch.testing.assert_close(*by_z)
    with pytest.raises(ValueError, match="divergence must be finite and at least 0"):
        FrequencyMultipliers(rho=rho, divergence=-1)


def test_the_recipe_learns_under_a_fifth_of_the_kl_with_multipliers_around_it():
    packaged, compared = recommended(0.2), recipe_penalty(0.2)
    for seed in range(3):
        z = normal(64, 4, seed=seed).requires_grad_()
        costs = DEFAULTS["weight"] * packaged(seen(z)), compared(seen(z))
        priced = (compared.multipliers * activation_frequency(z)).sum()
        torch.testing.assert_close(costs[1], 0.2 * frequency_penalty(z, rho=0.2) + priced)
        torch.testing.assert_close(*costs)
        torch.testing.assert_close(*(torch.autograd.grad(each, z)[0] for each in costs))
    assert (compared.multipliers != 0).all()
