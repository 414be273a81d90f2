import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saetools import (
    activation_frequency,
    bernoulli_kl,
    gaussian_step,
    rectangle_step,
    smooth,
    soft_frequency,
    soft_frequency_logits,
    step_frequency,
    straight_through_frequency,
    straight_through_gate,
    tanh_step,
)

# Each step's slope, in the numbers of the math module alone.
SLOPES = {
    torch.sigmoid: lambda u: 1 / (4 * math.cosh(u / 2) ** 2),
    tanh_step: lambda u: 1 / (2 * math.cosh(u) ** 2),
    rectangle_step: lambda u: 1.0 if abs(u) < 0.5 else 0.0,
    gaussian_step: lambda u: math.exp(-u * u / 2) / math.sqrt(2 * math.pi),
}
STEPS = tuple(SLOPES)
every_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
ESTIMATES = (soft_frequency, straight_through_frequency, step_frequency, soft_frequency_logits)
every_estimate = pytest.mark.parametrize("estimate", ESTIMATES, ids=lambda one: one.__name__)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 4))


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(estimate, z, *arguments, **keywords):
    z = z.detach().requires_grad_()
    estimate(z, *arguments, **keywords).sum().backward()
    return z.grad


AWAY_FROM_KINKS = (-7.0, -3.2, -2.9, -1.1, -0.9, -0.6, -0.4, 0.01, 0.3, 0.7, 1.3, 2.5, 3.5)


def slope(step, z, bandwidth=1.0):
    z = z.detach().requires_grad_()
    step(z / bandwidth).sum().backward()
    return z.grad


@every_step
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_rises_from_0_to_1_through_a_half(step, dtype):
    u = torch.tensor([-math.inf, -1e3, -40, 0, 40, 1e3, math.inf], dtype=dtype)
    expected = torch.tensor([0, 0, 0, 0.5, 1, 1, 1], dtype=dtype)
    assert step(u).dtype == dtype
    torch.testing.assert_close(step(u), expected, rtol=0, atol=1e-16)


@every_step
@given(u=st.lists(st.floats(-60, 60), min_size=2, max_size=20))
def test_a_step_never_falls_and_stays_in_the_unit_interval(step, u):
    steps = step(torch.tensor(sorted(u), dtype=torch.float64))
    assert (steps.diff() >= -1e-16).all()
    assert ((steps >= 0) & (steps <= 1)).all()


@every_step
def test_a_step_is_symmetric_about_a_half_and_rises_near_the_threshold(step):
    u = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    steps = step(u)
    torch.testing.assert_close(steps + step(-u), torch.ones_like(u), rtol=0, atol=1e-15)
    inside = steps[u.abs() < 0.45]
    assert (inside.diff() > 0).all()


@every_step
def test_the_slope_of_a_step_is_the_documented_kernel(step):
    u = torch.tensor(AWAY_FROM_KINKS, dtype=torch.float64)
    kernel = torch.tensor([SLOPES[step](value) for value in AWAY_FROM_KINKS], dtype=torch.float64)
    torch.testing.assert_close(slope(step, u), kernel, rtol=1e-13, atol=1e-16)


@every_step
@pytest.mark.parametrize("bandwidth", [1, 0.1, 0.001])
def test_the_slope_of_a_step_integrates_to_1_at_every_bandwidth(step, bandwidth):
    width = 0.001  # every kink lies at the edge of a cell
    middles = (torch.arange(-45_000, 45_000, dtype=torch.float64) + 0.5) * width * bandwidth
    integral = slope(step, middles, bandwidth).sum() * width * bandwidth
    assert integral.item() == pytest.approx(1, abs=1e-6)


@every_step
def test_a_step_passes_gradcheck(step):
    u = torch.tensor(AWAY_FROM_KINKS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(step, u)


def test_a_kernel_of_finite_width_pulls_nothing_beyond_it():
    just = torch.tensor([-0.501, -0.499, 0.499, 0.501], dtype=torch.float64)
    assert slope(rectangle_step, just).tolist() == [0, 1, 1, 0]


@given(u=st.floats(-30, 30))
def test_the_tanh_is_the_sigmoid_at_half_the_temperature(u):
    got = tanh_step(torch.tensor(u, dtype=torch.float64)).item()
    assert got == pytest.approx(1 / (1 + math.exp(-2 * u)), abs=1e-15)
    assert got == pytest.approx(torch.sigmoid(torch.tensor(2 * u, dtype=torch.float64)).item())


@given(u=st.floats(-6, 6))
def test_the_gaussian_step_is_the_normal_distribution_function(u):
    got = gaussian_step(torch.tensor(u, dtype=torch.float64)).item()
    assert got == pytest.approx(math.erfc(-u / math.sqrt(2)) / 2, rel=1e-12)


@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=5), extra=st.integers(1, 10))
def test_counts_the_rows_on_which_a_unit_is_above_zero(counts, extra):
    rows = 20 + extra
    pre = torch.stack([torch.where(torch.arange(rows) < n, 1.0, -1.0) for n in counts], -1)
    expected = torch.tensor([n / rows for n in counts])
    torch.testing.assert_close(activation_frequency(pre), expected)


def test_exactly_zero_is_not_active_and_latents_count_as_pre_activations_do():
    pre = torch.tensor([[0.0, -1.0, 2.0], [0.0, 3.0, 1e-30]])
    assert activation_frequency(pre).tolist() == [0, 0.5, 1]
    assert torch.equal(activation_frequency(pre), activation_frequency(pre.relu()))


def test_a_partial_batch_counts_its_own_rows():
    pre = torch.ones(100, 3)
    frequencies = [activation_frequency(rows) for rows in pre.split(64)]  # 64 rows, then 36
    assert all((rho_hat == 1).all() for rho_hat in frequencies)


def test_an_ensemble_keeps_its_leading_dim_and_dim_can_be_several():
    pre = torch.randn(5, 7, 3)
    assert activation_frequency(pre).shape == (5, 3)
    pooled = activation_frequency(pre, dim=(0, 1))
    torch.testing.assert_close(pooled, activation_frequency(pre.reshape(35, 3)))


def test_it_carries_no_gradient():
    assert not activation_frequency(torch.randn(4, 2, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("pre", "error", "message"),
    [
        (torch.ones(3), ValueError, "pre_activations must have at least 2 dims"),
        (torch.ones(0, 3), ValueError, "pre_activations must not be empty"),
        (torch.ones(3, 2, dtype=torch.int64), TypeError, "floating dtype, got torch.int64"),
        ([[1.0]], TypeError, "must be a torch.Tensor, got list"),
    ],
)
def test_bad_input_is_refused(pre, error, message):
    with pytest.raises(error, match=message):
        activation_frequency(pre)


def test_soft_frequency_is_the_mean_of_its_soft_step():
    z = normal(7, 3)
    got = soft_frequency(z, 0.3)
    for unit in range(3):
        rows = [1 / (1 + math.exp(-value / 0.3)) for value in z[:, unit].tolist()]
        assert got[unit].item() == pytest.approx(sum(rows) / 7, rel=1e-12)
    rows = [math.erfc(-value / 0.5 / math.sqrt(2)) / 2 for value in z[:, 0].tolist()]
    by_gauss = soft_frequency(z, 0.5, step=gaussian_step)
    assert by_gauss[0].item() == pytest.approx(sum(rows) / 7, rel=1e-12)


@pytest.mark.parametrize("step", [torch.sigmoid, tanh_step, gaussian_step])
@pytest.mark.parametrize("dim", [-2, 0, (0, 1), (-2, -1)])
def test_soft_frequency_passes_gradcheck_by_z_and_by_the_temperature(step, dim):
    z = normal(2, 4, 3).requires_grad_()
    temperature = torch.tensor([[[0.7]], [[1.6]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, temperature: soft_frequency(z, temperature, step=step, dim=dim), (z, temperature)
    )


def test_soft_frequency_can_be_on_target_while_the_hard_count_is_nought():
    z = torch.full((50, 1), 0.3 * math.log(0.2 / 0.8))
    assert soft_frequency(z, 0.3).item() == pytest.approx(0.2)
    assert activation_frequency(z).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@given(
    shape=shapes, step=st.sampled_from(STEPS), seed=st.integers(0, 99), scale=st.floats(0.01, 99)
)
def test_straight_through_is_the_hard_count_to_the_bit(dtype, shape, step, seed, scale):
    z = (normal(*shape, seed=seed) * scale).to(dtype).requires_grad_()
    got = straight_through_frequency(z, 0.3, step=step)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(got, activation_frequency(z))
    by_hand = [(unit > 0).sum().item() / shape[1] for unit in z[0].T]
    assert got[0].tolist() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@given(shape=shapes, step=st.sampled_from(STEPS), seed=st.integers(0, 99))
def test_straight_through_has_the_gradient_of_soft_frequency_to_the_bit(dtype, shape, step, seed):
    z = normal(*shape, seed=seed).to(dtype)
    straight = gradient(straight_through_frequency, z, 0.7, step=step)
    assert straight.dtype == dtype
    assert torch.equal(straight, gradient(soft_frequency, z, 0.7, step=step))


def test_a_unit_that_is_dead_or_always_on_is_still_pulled():
    z = torch.tensor([[-1.0, 1.0], [-0.5, 0.5]])
    assert (gradient(straight_through_frequency, z, 0.3) > 0).all()
    expected = math.exp(1 / 0.3) / (1 + math.exp(1 / 0.3)) ** 2 / 0.3 / 2
    got = gradient(straight_through_frequency, z, 0.3)[0]
    assert got.tolist() == pytest.approx([expected, expected], rel=1e-5)


def test_behind_the_relu_a_sigmoid_never_falls_below_a_half():
    z = normal(100, 3) - 1
    assert (soft_frequency(z.relu(), 0.3) >= 0.5).all()
    assert (soft_frequency(z, 0.3) < 0.5).all()


@every_step
def test_a_threshold_is_pulled_by_the_opposite_of_z(step):
    z, threshold = normal(3, 20, 4).requires_grad_(), (0.1 * normal(3, 1, 4, seed=1))
    each = threshold.expand(3, 20, 4).clone().requires_grad_()
    step_frequency(z, 0.9, step=step, threshold=each).square().sum().backward()
    assert each.grad.any()
    assert torch.equal(each.grad, -z.grad)
    threshold = threshold.requires_grad_()
    step_frequency(z, 0.9, step=step, threshold=threshold).square().sum().backward()
    torch.testing.assert_close(threshold.grad, each.grad.sum(-2, keepdim=True))


@given(threshold=st.floats(-2, 2))
def test_step_frequency_is_the_share_of_rows_above_its_threshold(threshold):
    z = normal(40, 3)
    expected = [sum(v > threshold for v in unit) / 40 for unit in z.T.tolist()]
    assert step_frequency(z, 0.1, threshold=threshold).tolist() == pytest.approx(expected)


# The kernels, and how far from 0 they reach.
KERNELS = {
    rectangle_step: (torch.ones_like, 0.5),
    gaussian_step: (lambda u: torch.exp(-u * u / 2) / math.sqrt(2 * math.pi), 9.0),
}


def smoothed_density(step, mean, bandwidth):
    """The kernel times the density of N(mean, 1), by the midpoint rule."""
    kernel, reach = KERNELS[step]
    width = 2 * reach / 20_000
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) * width - reach
    density = torch.exp(-((bandwidth * u - mean) ** 2) / 2) / math.sqrt(2 * math.pi)
    return (kernel(u) * density).sum().item() * width


@pytest.mark.parametrize("step", KERNELS, ids=lambda step: step.__name__)
@pytest.mark.parametrize("bandwidth", [1, 0.1, 0.001])
@pytest.mark.parametrize("mean", [0.0, -0.8])
def test_step_frequency_has_the_gradient_of_the_smoothed_count(step, bandwidth, mean):
    rows = 1_000_000
    noise = normal(rows, 1, dtype=torch.float32).double()
    mu = torch.tensor(mean, dtype=torch.float64, requires_grad=True)
    step_frequency(noise + mu, bandwidth, step=step).sum().backward()
    exact = smoothed_density(step, mean, bandwidth)
    if step is gaussian_step:
        spread = 1 + bandwidth**2
        closed = math.exp(-(mean**2) / (2 * spread)) / math.sqrt(2 * math.pi * spread)
        assert exact == pytest.approx(closed, rel=1e-9)
    kernel, reach = KERNELS[step]
    u = (noise + mean) / bandwidth
    each_row = torch.where(u.abs() < reach, kernel(u), 0) / bandwidth
    standard_error = each_row.std().item() / math.sqrt(rows)
    assert standard_error < 0.1 * exact
    assert abs(mu.grad.item() - exact) < 5 * standard_error


@every_estimate
def test_one_temperature_a_member_is_each_member_alone(estimate):
    z, temperatures = normal(3, 20, 4), [0.1, 0.7, 2.0]
    together = torch.tensor(temperatures)[:, None, None]
    values, slopes = estimate(z, together), gradient(estimate, z, together)
    for member, temperature in enumerate(temperatures):
        alone = torch.tensor(temperature)
        torch.testing.assert_close(values[member], estimate(z[member], alone))
        torch.testing.assert_close(slopes[member], gradient(estimate, z[member], alone))
        torch.testing.assert_close(
            values[member], estimate(z[member], temperature), rtol=1e-6, atol=1e-6
        )


@every_estimate
@given(copies=st.integers(2, 4))
def test_duplicating_the_batch_keeps_the_value_and_shares_the_gradient_out(estimate, copies):
    z = normal(10, 3)
    torch.testing.assert_close(estimate(z.repeat(copies, 1), 0.3), estimate(z, 0.3))
    shared = gradient(estimate, z.repeat(copies, 1), 0.3).view(copies, 10, 3)
    once = gradient(estimate, z, 0.3)
    torch.testing.assert_close(shared[0], once / copies)
    torch.testing.assert_close(shared.sum(0), once)


@every_estimate
def test_dims_pool_members_and_rows(estimate):
    z = normal(2, 6, 3)
    pooled = estimate(z.reshape(12, 3), 0.3)
    torch.testing.assert_close(estimate(z, 0.3, dim=(0, 1)), pooled)
    torch.testing.assert_close(estimate(z.transpose(-1, -2), 0.3, dim=-1), estimate(z, 0.3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_estimate
def test_half_precision_is_counted_in_single(estimate, dtype):
    z = normal(5000, 2).to(dtype)
    got = estimate(z, 0.3)
    assert got.dtype == torch.float32
    assert torch.equal(got, estimate(z.float(), 0.3))


@given(rho_hat=st.floats(0, 1), eps=st.floats(1e-6, 0.49))
def test_smooth_squeezes_into_eps_and_keeps_its_gradient_at_the_ends(rho_hat, eps):
    leaf = torch.tensor([0.0, rho_hat, 1.0], dtype=torch.float64, requires_grad=True)
    got = smooth(leaf, eps)
    assert got.tolist() == pytest.approx([eps, eps + (1 - 2 * eps) * rho_hat, 1 - eps], rel=1e-12)
    got.sum().backward()
    assert leaf.grad.tolist() == pytest.approx([1 - 2 * eps] * 3, rel=1e-15)


@given(rows=st.integers(1, 500), share=st.floats(0, 1))
def test_smooth_can_be_the_add_one_count(rows, share):
    active = round(rows * share)
    z = torch.where(torch.arange(rows) < active, 1.0, -1.0)[:, None]
    got = smooth(activation_frequency(z), 1 / (rows + 2)).item()
    assert got == pytest.approx((active + 1) / (rows + 2), rel=1e-6)


def test_smooth_takes_any_shape():
    assert smooth(torch.tensor(0.0)).item() == pytest.approx(1e-3)
    assert smooth(torch.zeros(2, 3, 4)).shape == (2, 3, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_smooth_keeps_off_both_ends_in_every_dtype(dtype):
    ends = torch.tensor([0.0, 1.0], dtype=dtype, requires_grad=True)
    got = smooth(ends)
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    assert got.tolist() == pytest.approx([1e-3, 1 - 1e-3], rel=1e-6)
    kl = bernoulli_kl(got, rho=0.2)
    kl.sum().backward()
    assert kl.isfinite().all()
    assert ends.grad.isfinite().all()
    assert ends.grad.dtype == dtype


@pytest.mark.parametrize(
    ("rho", "temperature"),
    [(0.2, 0.3), (torch.tensor([0.1, 0.2, 0.3]), torch.tensor(0.3))],
    ids=["numbers", "tensors"],
)
def test_a_penalty_is_one_graph_under_compile(rho, temperature):
    def penalty(z):
        rho_hat = smooth(straight_through_frequency(z, temperature))
        return bernoulli_kl(rho_hat, rho=rho).sum(-1)

    z = normal(16, 3, dtype=torch.float32)
    compiled = torch.compile(penalty, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(z), penalty(z))
    torch.testing.assert_close(gradient(compiled, z), gradient(penalty, z))


@pytest.mark.parametrize(
    ("temperature", "error", "message"),
    [
        (0, ValueError, "{} must be finite and greater than 0, got 0"),
        (-0.5, ValueError, "{} must be finite and greater than 0, got -0.5"),
        (math.nan, ValueError, "{} must be finite and greater than 0, got nan"),
        (math.inf, ValueError, "{} must be finite and greater than 0, got inf"),
        ("0.3", TypeError, "{} must be a number, got '0.3'"),
        (True, TypeError, "{} must be a number, got True"),
        (None, TypeError, "{} must be a number, got None"),
        (
            torch.tensor([0.3, 0.0]),
            ValueError,
            r"{} must be finite and greater than 0, got tensor\(\[0.3000, 0.0000\]\)",
        ),
        (torch.tensor(math.nan), ValueError, r"{} must be finite .*, got nan"),
        (torch.tensor(math.inf), ValueError, r"{} must be finite .*, got inf"),
    ],
)
@every_estimate
def test_a_bad_temperature_is_refused(estimate, temperature, error, message):
    name = "bandwidth" if estimate is step_frequency else "temperature"
    with pytest.raises(error, match=message.format(name)):
        estimate(torch.ones(3, 2), temperature)


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.ones(3), ValueError, r"pre_activations must have at least 2 dims, got .*\(3,\)"),
        (torch.ones(0, 3), ValueError, r"pre_activations must not be empty, got .*\(0, 3\)"),
        (torch.ones(3, 0), ValueError, r"pre_activations must not be empty, got .*\(3, 0\)"),
        (torch.ones(3, 2).int(), TypeError, "pre_activations must have a floating .* torch.int32"),
        (torch.ones(3, 2).bool(), TypeError, "pre_activations must have a floating .* torch.bool"),
        ([[1.0]], TypeError, "pre_activations must be a torch.Tensor, got list"),
    ],
)
@every_estimate
def test_bad_pre_activations_are_refused_by_every_estimate(estimate, z, error, message):
    with pytest.raises(error, match=message):
        estimate(z, 0.3)


@pytest.mark.parametrize(
    ("rho_hat", "eps", "error", "message"),
    [
        (torch.ones(2), 0, ValueError, "eps must be finite and greater than 0, got 0"),
        (torch.ones(2), -0.1, ValueError, "eps must be finite and greater than 0, got -0.1"),
        (torch.ones(2), 0.5, ValueError, "eps must be less than 0.5, got 0.5"),
        (torch.ones(2), math.nan, ValueError, "eps must be finite and greater than 0, got nan"),
        (torch.ones(2), "0.1", TypeError, "eps must be a number, got '0.1'"),
        (torch.ones(2), True, TypeError, "eps must be a number, got True"),
        (torch.tensor([1, 0]), 0.1, TypeError, "rho_hat must have a floating .* torch.int64"),
        (torch.ones(0), 0.1, ValueError, r"rho_hat must not be empty, got shape \(0,\)"),
        (0.5, 0.1, TypeError, "rho_hat must be a torch.Tensor, got float"),
    ],
)
def test_bad_input_to_smooth_is_refused(rho_hat, eps, error, message):
    with pytest.raises(error, match=message):
        smooth(rho_hat, eps)


@every_step
def test_a_gate_is_hard_in_value_and_has_the_slope_of_its_step(step):
    z = normal(4, 6, 3)
    assert torch.equal(straight_through_gate(z, 0.7, step=step), (z > 0).double())
    assert torch.equal(gradient(straight_through_gate, z, 0.7, step=step), slope(step, z, 0.7))


@every_step
def test_gates_have_the_mean_of_the_straight_through_count(step):
    z = normal(6, 3)
    gates = straight_through_gate(z, 0.3, step=step).mean(-2)
    torch.testing.assert_close(gates, straight_through_frequency(z, 0.3, step=step))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_gate_keeps_dtype_shape_and_nan(dtype):
    scores = torch.tensor([0.5, -math.inf, math.nan, 0.0], dtype=dtype)
    gate = straight_through_gate(scores, 0.3)
    assert gate.dtype == dtype
    assert gate[[0, 1, 3]].tolist() == [1, 0, 0]
    assert gate[2].isnan()
    assert straight_through_gate(torch.tensor(2.0), 0.3).shape == ()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_a_gate_needs_a_positive_temperature(bad):
    with pytest.raises(ValueError, match="temperature must be finite and greater than 0"):
        straight_through_gate(torch.ones(3), bad)
