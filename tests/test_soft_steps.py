import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saetools import (
    gaussian_step,
    hard_sigmoid_step,
    rectangle_step,
    tanh_step,
    triangle_step,
)

# Each with its kernel, in the numbers of the math module alone.
KERNELS = {
    torch.sigmoid: lambda u: 1 / (4 * math.cosh(u / 2) ** 2),
    tanh_step: lambda u: 1 / (2 * math.cosh(u) ** 2),
    hard_sigmoid_step: lambda u: 1 / 6 if abs(u) < 3 else 0.0,
    rectangle_step: lambda u: 1.0 if abs(u) < 0.5 else 0.0,
    triangle_step: lambda u: max(0.0, 1 - abs(u)),
    gaussian_step: lambda u: math.exp(-u * u / 2) / math.sqrt(2 * math.pi),
}
every_step = pytest.mark.parametrize("step", KERNELS, ids=lambda step: step.__name__)
AWAY_FROM_KINKS = (-7.0, -3.2, -2.9, -1.1, -0.9, -0.6, -0.4, 0.01, 0.3, 0.7, 1.3, 2.5, 3.5)


def slope(step, z, bandwidth=1.0):
    z = z.detach().requires_grad_()
    step(z / bandwidth).sum().backward()
    return z.grad


@every_step
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_rises_from_0_to_1_through_a_half(step, dtype):
    u = torch.tensor([-math.inf, -1e3, -40, 0, 40, 1e3, math.inf], dtype=dtype)
    expected = torch.tensor([0, 0, 0, 0.5, 1, 1, 1], dtype=dtype)
    assert step(u).dtype == dtype
    torch.testing.assert_close(step(u), expected, rtol=0, atol=1e-16)


@every_step
@given(u=st.lists(st.floats(-60, 60), min_size=2, max_size=20))
def test_it_never_falls_and_stays_in_the_unit_interval(step, u):
    steps = step(torch.tensor(sorted(u), dtype=torch.float64))
    assert (steps.diff() >= -1e-16).all()
    assert ((steps >= 0) & (steps <= 1)).all()


@every_step
def test_it_is_symmetric_about_a_half_and_rises_near_the_threshold(step):
    u = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    steps = step(u)
    torch.testing.assert_close(steps + step(-u), torch.ones_like(u), rtol=0, atol=1e-15)
    inside = steps[u.abs() < 0.45]
    assert (inside.diff() > 0).all()


@every_step
def test_its_slope_is_the_documented_kernel(step):
    u = torch.tensor(AWAY_FROM_KINKS, dtype=torch.float64)
    kernel = torch.tensor([KERNELS[step](value) for value in AWAY_FROM_KINKS], dtype=torch.float64)
    # torch keeps the 1/6 of its hardsigmoid in float32.
    digits = 1e-7 if step is hard_sigmoid_step else 1e-13
    torch.testing.assert_close(slope(step, u), kernel, rtol=digits, atol=1e-16)


@every_step
@pytest.mark.parametrize("bandwidth", [1, 0.1, 0.001])
def test_its_slope_integrates_to_1_at_every_bandwidth(step, bandwidth):
    width = 0.001  # every kink lies at the edge of a cell
    middles = (torch.arange(-45_000, 45_000, dtype=torch.float64) + 0.5) * width * bandwidth
    integral = slope(step, middles, bandwidth).sum() * width * bandwidth
    assert integral.item() == pytest.approx(1, abs=1e-6)


@every_step
def test_gradcheck(step):
    u = torch.tensor(AWAY_FROM_KINKS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(step, u)


@pytest.mark.parametrize(
    ("step", "reach"), [(hard_sigmoid_step, 3), (rectangle_step, 0.5), (triangle_step, 1)]
)
def test_a_kernel_of_finite_width_pulls_nothing_beyond_it(step, reach):
    just = torch.tensor([-1.001, -0.999, 0.999, 1.001], dtype=torch.float64) * reach
    assert (slope(step, just) != 0).tolist() == [False, True, True, False]


@given(u=st.floats(-30, 30))
def test_the_tanh_is_the_sigmoid_at_half_the_temperature(u):
    got = tanh_step(torch.tensor(u, dtype=torch.float64)).item()
    assert got == pytest.approx(1 / (1 + math.exp(-2 * u)), abs=1e-15)
    assert got == pytest.approx(torch.sigmoid(torch.tensor(2 * u, dtype=torch.float64)).item())


@given(u=st.floats(-6, 6))
def test_the_gaussian_step_is_the_normal_distribution_function(u):
    got = gaussian_step(torch.tensor(u, dtype=torch.float64)).item()
    assert got == pytest.approx(math.erfc(-u / math.sqrt(2)) / 2, rel=1e-12)
