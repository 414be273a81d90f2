import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saetools import (
    SparseAutoencoder,
    activation_frequency,
    chicago_context,
    initialise_for_frequency_,
    target_frequency_,
    unit_spread_,
)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def shares(z):
    """Share of the rows above 0, in the numbers of Python."""
    return [sum(value > 0 for value in unit) / len(unit) for unit in z.T.tolist()]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@given(
    values=st.lists(st.integers(-1000, 1000), min_size=2, max_size=60, unique=True),
    rho=st.floats(0.001, 0.999),
    start=st.integers(-5, 5),
)
def test_distinct_rows_reach_the_nearest_share_there_is(values, rho, start):
    z = torch.tensor(values, dtype=torch.float64)[:, None] + start
    bias = torch.full((1,), float(start), dtype=torch.float64)
    assert target_frequency_(bias, z, rho, tolerance=0.9) is bias
    share = shares(z + (bias - start))[0]
    rows = len(values)
    nearest = min((k / rows for k in range(1, rows)), key=lambda k: abs(k - rho))
    assert abs(share - rho) == pytest.approx(abs(nearest - rho), abs=1e-9)
    if 0.5 / rows <= rho <= 1 - 0.5 / rows:
        assert abs(share - rho) <= 0.5 / rows + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rho", [0.01, 0.2, 0.5, 0.97])
@pytest.mark.parametrize(
    "skew", [torch.clone, torch.exp, lambda z: torch.cat([z[1:], torch.full_like(z[:1], 1e6)])]
)
def test_skewed_data_and_outliers_reach_it_as_well(skew, rho, dtype):
    z = skew(normal(1000, 4, dtype=dtype))
    bias = target_frequency_(torch.zeros(4, dtype=dtype), z, rho)
    assert shares(z + bias) == pytest.approx([rho] * 4, abs=0.5 / 1000 + 1e-6)


def test_the_threshold_is_half_way_between_the_values_it_separates():
    z = torch.tensor([[0.0, 1.0], [1.0, 5.0], [2.0, -3.0], [10.0, 2.0]])
    bias = target_frequency_(torch.tensor([0.0, 1.0]), z, torch.tensor([0.25, 0.5]))
    assert bias.tolist() == [-6.0, -0.5]


def test_ties_are_given_the_nearest_share_that_a_threshold_reaches():
    z = torch.tensor([0.0] * 62 + [1.0] * 20 + [2.0] * 18)[:, None]
    bias = target_frequency_(torch.zeros(1), z, 0.2)
    assert bias.tolist() == [-1.5]
    bias = target_frequency_(torch.zeros(1), z, 0.35)
    assert bias.tolist() == [-0.5]


def test_units_have_their_own_targets():
    z, rho = normal(1000, 3), torch.tensor([0.05, 0.2, 0.7])
    bias = target_frequency_(torch.zeros(3), z, rho)
    assert shares(z + bias) == pytest.approx([0.05, 0.2, 0.7], abs=0.5 / 1000 + 1e-6)


def test_an_ensemble_is_its_members_one_by_one():
    z, start = normal(3, 200, 4), normal(3, 4, seed=1)
    rho = torch.tensor([[0.1], [0.2], [0.3]])
    together = target_frequency_(start.clone(), z, rho)
    for member in range(3):
        alone = target_frequency_(start[member].clone(), z[member], rho[member].item())
        assert torch.equal(together[member], alone)
    assert activation_frequency(z + (together - start)[:, None]).std() > 0.05


@pytest.mark.parametrize("rho", [0.005, 0.02, 0.995])
def test_the_tolerance_is_relative_to_rho(rho):
    """A unit that is on for one row in twenty is no unit of rho = 0.005."""
    z = torch.cat([torch.zeros(950), torch.ones(50)])[:, None] * (1 if rho < 0.5 else -1)
    with pytest.raises(
        ValueError, match=r"rho = 0.\d+ of the 1000 rows .* nearest share is 0.[09]5"
    ):
        target_frequency_(torch.zeros(1), z, rho)
    target_frequency_(torch.zeros(1), z, rho, tolerance=0.05)


def test_rows_too_few_to_tell_a_rare_unit_are_refused():
    with pytest.raises(
        ValueError, match=r"of the 100 rows .* nearest share is 0.01. Give more rows"
    ):
        target_frequency_(torch.zeros(1), normal(100, 1), 0.005)
    z = normal(1000, 1)
    assert shares(z + target_frequency_(torch.zeros(1), z, 0.005)) == [0.005]


@pytest.mark.parametrize(
    "rho", [0.005, 0.5, 0.9, torch.tensor([0.01, 0.3, 0.6, 0.97]), torch.tensor([0.6, 0.99] * 2)]
)
def test_no_full_sort_finds_what_a_full_sort_finds(rho, monkeypatch):
    z = normal(500, 4).mul(20).round()  # with ties
    values = z.sort(dim=0).values
    middles = (values[1:] + values[:-1]) / 2
    misses = (torch.arange(499, 0, -1)[:, None] / 500 - rho).abs()
    best = misses.masked_fill(values[1:] == values[:-1], math.inf).argmin(0)
    monkeypatch.setattr(torch.Tensor, "sort", None)
    got = target_frequency_(torch.zeros(4), z, rho, tolerance=0.02)
    torch.testing.assert_close(got, -middles.gather(0, best[None])[0])


def test_a_copy_of_the_bias_is_refused_and_a_view_is_changed():
    layer, z = nn.Linear(1, 4), normal(100, 4)
    some = torch.tensor([True, False, True, False])
    with pytest.raises(ValueError, match="bias must be a parameter or a view, got a copy of one"):
        target_frequency_(layer.bias[some], z[:, some], 0.2)
    before = layer.bias.detach().clone()
    target_frequency_(layer.bias[1:3], z[:, 1:3], 0.2)
    assert (layer.bias != before).tolist() == [False, True, True, False]
    with torch.no_grad():  # as the docstring says
        layer.bias[some] = target_frequency_(layer.bias[some], z[:, some], 0.2)
    assert (layer.bias != before).tolist() == [True, True, True, False]
    assert layer.bias.is_leaf


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_counted_exactly_or_refused(dtype):
    z = normal(1000, 4).to(dtype)
    bias = target_frequency_(torch.zeros(4, dtype=dtype), z, 0.05)
    assert bias.dtype == dtype
    assert shares(z.double() + bias.double()) == pytest.approx([0.05] * 4, abs=0.01)
    far, bias = normal(1000, 4) + 3000, torch.zeros(4, dtype=dtype)
    with pytest.raises(ValueError, match=rf"got {dtype}, in which .* keep the weights in float32"):
        target_frequency_(bias, far, 0.05)
    assert not bias.any()


def test_nothing_is_recorded_for_autograd():
    layer, x = nn.Linear(5, 3), normal(100, 5)
    target_frequency_(layer.bias, layer(x), 0.2)
    unit_spread_(layer, layer(x))
    for parameter in layer.parameters():
        assert parameter.requires_grad
        assert parameter.is_leaf
        assert parameter.grad is None
    layer(x).sum().backward()
    assert layer.bias.grad.tolist() == [100.0] * 3


TIED = torch.tensor([0.0] * 6 + [1.0] * 4)[:, None]
CONSTANT = torch.stack([torch.arange(10.0), torch.full((10,), 3.0)], -1)


@pytest.mark.parametrize(
    ("z", "rho", "message"),
    [
        (TIED, 0.2, "unit 0 cannot be .* rho = 0.2 of the 10 rows .* nearest share is 0.4. Give"),
        (torch.arange(3.0)[:, None], 0.2, "of the 3 rows .* nearest share is 0.333. Give more row"),
        (CONSTANT, 0.2, "unit 1 does not vary over the 10 rows of pre_activations"),
        (torch.stack([CONSTANT, CONSTANT.flip(1)]), 0.2, r"unit \(0, 1\) does not vary over"),
        (torch.ones(1, 2), 0.2, "pre_activations must have at least 2 rows"),
        (CONSTANT.where(CONSTANT != 4, math.nan), 0.2, r"must be finite, got nan at \(4, 0\)"),
        (CONSTANT.where(CONSTANT != 4, math.inf), 0.2, r"must be finite, got inf at \(4, 0\)"),
        (torch.arange(10.0), 0.2, r"pre_activations must have at least 2 dims, got shape \(10,\)"),
        (torch.ones(0, 2), 0.2, r"pre_activations must not be empty, got shape \(0, 2\)"),
        (CONSTANT, 0.0, "rho must lie strictly between 0 and 1, got 0.0"),
        (CONSTANT, torch.tensor([0.2, 1.0]), "rho must lie strictly between 0 and 1, got tensor"),
    ],
)
def test_what_cannot_reach_the_target_is_refused_and_named(z, rho, message):
    bias = torch.zeros(*z.shape[:-2], z.shape[-1])
    with pytest.raises(ValueError, match=message):
        target_frequency_(bias, z, rho)
    assert not bias.any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bias": torch.zeros(2)}, ValueError, r"bias must have .* shape \(1,\), got \(2,\)"),
        ({"bias": [0.0]}, TypeError, "bias must be a torch.Tensor, got list"),
        ({"bias": torch.zeros(1).int()}, TypeError, "bias must have a floating .* torch.int32"),
        ({"pre_activations": TIED.int()}, TypeError, "pre_activations must have a floating dtype"),
        ({"rho": "0.2"}, TypeError, "rho must be a number or a tensor, got str"),
        ({"tolerance": 0}, ValueError, "tolerance must lie strictly between 0 and 1, got 0"),
        ({"tolerance": 1.0}, ValueError, "tolerance must lie strictly between 0 and 1, got 1.0"),
        ({"tolerance": math.nan}, ValueError, "tolerance must be finite .*, got nan"),
        ({"tolerance": "0.1"}, TypeError, "tolerance must be a number, got '0.1'"),
    ],
)
def test_bad_arguments_to_target_frequency_are_refused(arguments, error, message):
    good = {"bias": torch.zeros(1), "pre_activations": TIED, "rho": 0.4}
    with pytest.raises(error, match=message):
        target_frequency_(**(good | arguments))


def test_a_tolerance_lets_the_nearest_share_through():
    assert target_frequency_(torch.zeros(1), TIED, 0.2, tolerance=0.21).tolist() == [-0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e5])
def test_unit_spread_scales_every_unit_to_1_and_keeps_its_frequency(scale, bias, dtype):
    layer = nn.Linear(6, 5, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(scale)
        layer.weight.mul_(torch.tensor([1, 2, 3, 4, 5.0], dtype=dtype)[:, None])
    x = normal(500, 6, dtype=dtype)
    before = activation_frequency(layer(x))
    assert unit_spread_(layer, layer(x)) is layer
    z = layer(x)
    digits = 1e-5 if dtype == torch.float32 else 1e-12
    variances = (z - z.mean(0)).square().sum(0) / 499
    assert variances.tolist() == pytest.approx([1] * 5, rel=digits)
    assert torch.equal(activation_frequency(z), before)
    assert ((before > 0) & (before < 1)).all()


@pytest.mark.parametrize(
    ("layer", "z", "error", "message"),
    [
        (nn.Linear(1, 2), CONSTANT, ValueError, "unit 1 does not vary over the 10 rows of pre_"),
        (nn.Linear(1, 2), CONSTANT + 0.1, ValueError, "unit 1 does not vary over the 10 rows"),
        (nn.Linear(1, 3), CONSTANT, ValueError, r"shape \(B, 3\) of .* units, got \(10, 2\)"),
        (nn.Linear(1, 2), CONSTANT[None], ValueError, r"\(B, 2\) of .* got \(1, 10, 2\)"),
        (nn.Linear(1, 2), CONSTANT[:1], ValueError, r"must have at least 2 rows, got .*\(1, 2\)"),
        (nn.Linear(1, 2), CONSTANT / 0, ValueError, "pre_activations must be finite, got nan at"),
        (nn.Linear(1, 2), CONSTANT.int(), TypeError, "must have a floating dtype, got torch.int"),
        (nn.ReLU(), CONSTANT, TypeError, "layer must be an nn.Linear, got ReLU"),
    ],
)
def test_bad_input_to_unit_spread_is_refused_and_changes_nothing(layer, z, error, message):
    before = state(layer)
    with pytest.raises(error, match=message):
        unit_spread_(layer, z)
    assert same(state(layer), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rho", [0.05, 0.2, 0.5])
def test_every_unit_of_a_real_network_starts_at_the_target_with_a_spread_of_1(rho, dtype):
    x = chicago_context().train.to(dtype)
    for seed in range(8):
        model = SparseAutoencoder(seed=seed).to(dtype)
        before = state(model)
        assert initialise_for_frequency_(model, x, rho=rho) is model
        with torch.no_grad():
            z = model.encode(x)
        assert shares(z) == pytest.approx([rho] * 4, abs=1 / len(x))
        assert z.std(0).tolist() == pytest.approx([1] * 4, rel=1e-4)
        changed = {name for name, value in state(model).items() if not same({name: value}, before)}
        assert changed == {"encoder.2.weight", "encoder.2.bias"}
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(parameter.grad is None for parameter in model.parameters())


def test_units_of_a_network_have_their_own_targets():
    x, rho = chicago_context().train, torch.tensor([0.05, 0.1, 0.2, 0.5])
    model = initialise_for_frequency_(SparseAutoencoder(seed=0), x, rho=rho)
    with torch.no_grad():
        assert shares(model.encode(x)) == pytest.approx(rho.tolist(), abs=1 / len(x))


def test_the_global_random_state_and_the_data_are_left_alone():
    x = torch.rand(100, 20)
    kept, random_state = x.clone(), torch.get_rng_state()
    initialise_for_frequency_(SparseAutoencoder(seed=0), x, rho=0.2)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), random_state)


def dead_network():
    model = SparseAutoencoder(seed=0)
    with torch.no_grad():
        model.encoder[-1].weight[2] = 0
    return model


X = torch.rand(100, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (dead_network(), {}, ValueError, "unit 2 does not vary over the 100 rows"),
        (SparseAutoencoder(seed=0), {"x": X[:3]}, ValueError, "nearest share is 0.333. Give more"),
        (SparseAutoencoder(seed=0), {"x": X[:1]}, ValueError, r"x must have at least 2 rows, got"),
        (SparseAutoencoder(seed=0), {"x": X * math.nan}, ValueError, "x must be finite, got nan"),
        (SparseAutoencoder(seed=0), {"x": X.int()}, TypeError, "x must have a floating dtype"),
        (SparseAutoencoder(seed=0), {"rho": 1}, ValueError, "rho must lie .* 0 and 1, got 1"),
        (SparseAutoencoder(seed=0), {"tolerance": 2}, ValueError, "tolerance must .* got 2"),
        (nn.Linear(20, 4), {}, TypeError, "model must be a SparseAutoencoder, got Linear: for an"),
    ],
)
def test_a_model_that_is_refused_is_left_as_it_was(model, arguments, error, message):
    before = state(model)
    with pytest.raises(error, match=message):
        initialise_for_frequency_(model, **({"x": X, "rho": 0.2} | arguments))
    assert same(state(model), before)
