import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saetools import (
    bernoulli_kl,
    bernoulli_kl_with_logits,
    soft_frequency,
    soft_frequency_logits,
)

rhos = st.floats(0.01, 0.99)


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradient(estimate, z):
    z = z.detach().requires_grad_()
    estimate(z, 0.3).sum().backward()
    return z.grad


@given(scale=st.floats(0.01, 8), shift=st.floats(-5, 5), temperature=st.floats(0.3, 3))
def test_soft_frequency_logits_are_the_logits_of_soft_frequency(scale, shift, temperature):
    z = normal(2, 9, 3) * scale / 8 + shift * temperature
    for dim in (-2, 0, (0, 1), (0, 1, 2)):
        expected = torch.logit(soft_frequency(z, temperature, dim=dim))
        got = soft_frequency_logits(z, temperature, dim=dim)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_soft_frequency_logits_pass_gradcheck():
    z = normal(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft_frequency_logits(z, 0.7), z)


@pytest.mark.parametrize("end", [-1000.0, 1000.0])
def test_soft_frequency_logits_keep_their_gradient_where_the_frequency_has_none(end):
    z = torch.full((8, 2), end)
    logits = soft_frequency_logits(z, 0.3)
    assert logits.tolist() == pytest.approx([end / 0.3] * 2, rel=1e-6)
    slopes = gradient(soft_frequency_logits, z)
    # A logit of 3333 has few digits left behind its point in float32.
    torch.testing.assert_close(slopes, torch.full_like(z, 1 / 0.3 / 8), rtol=1e-3, atol=0)
    assert not gradient(soft_frequency, z).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_the_float32_result_rounded(dtype):
    half = (torch.randn(500) * 5).to(dtype).requires_grad_()
    single = half.detach().float().requires_grad_()
    got, expected = (bernoulli_kl_with_logits(logits, rho=0.2) for logits in (half, single))
    got.sum().backward()
    expected.sum().backward()
    assert got.dtype == dtype
    assert torch.equal(got, expected.to(dtype))
    assert torch.equal(half.grad, single.grad.to(dtype))


@given(rho=rhos, logit=st.floats(-300, 12))
def test_kl_with_logits_is_the_kl_of_their_sigmoid(rho, logit):
    logits = torch.tensor([logit], dtype=torch.float64)
    got = bernoulli_kl_with_logits(logits, rho=rho)
    expected = bernoulli_kl(torch.sigmoid(logits), rho=rho)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-9)
    assert got.item() >= -1e-15


@given(rho=rhos, logit=st.floats(-800, 800))
def test_kl_with_logits_agrees_with_many_digits(rho, logit):
    got = bernoulli_kl_with_logits(torch.tensor([logit], dtype=torch.float64), rho=rho).item()
    with mpmath.workprec(2600):
        p, q = mpmath.mpf(rho), 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
        exact = p * mpmath.log(p / q) + (1 - p) * mpmath.log((1 - p) / (1 - q))
    assert got == pytest.approx(float(exact), rel=1e-12, abs=1e-14)


@given(rho=rhos, logit=st.floats(-50, 50))
def test_gradient_by_the_logit_is_the_distance_to_the_target(rho, logit):
    leaf = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    bernoulli_kl_with_logits(leaf, rho=rho).sum().backward()
    expected = 1 / (1 + math.exp(-logit)) - rho
    assert leaf.grad.item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_with_logits_is_finite_far_out_and_so_is_its_gradient(dtype):
    leaf = torch.tensor([-1e4, 1e4], dtype=dtype, requires_grad=True)
    kl = bernoulli_kl_with_logits(leaf, rho=0.2)
    kl.sum().backward()
    negative_entropy = 0.2 * math.log(0.2) + 0.8 * math.log(0.8)
    expected = [0.2 * 1e4 + negative_entropy, 0.8 * 1e4 + negative_entropy]
    assert kl.tolist() == pytest.approx(expected, rel=1e-6)
    assert leaf.grad.tolist() == pytest.approx([-0.2, 0.8], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rho", [0.001, 0.02, 0.2, 0.5, 0.9, 0.999])
def test_kl_with_logits_is_zero_at_the_target(rho, dtype):
    logits = torch.logit(torch.tensor([rho], dtype=dtype)) + torch.tensor([0, 0.1], dtype=dtype)
    at_target, away = bernoulli_kl_with_logits(logits, rho=rho).tolist()
    assert at_target == 0
    assert away == pytest.approx(rho * (1 - rho) * 0.1**2 / 2, rel=0.05)


def test_logits_take_one_rho_a_member_and_fit_soft_frequency_logits():
    z = torch.randn(3, 50, 4)
    logits = soft_frequency_logits(z, 0.3)
    rho = torch.tensor([[0.1], [0.2], [0.3]])
    kl = bernoulli_kl_with_logits(logits, rho=rho)
    assert kl.shape == (3, 4)
    for member in range(3):
        expected = bernoulli_kl_with_logits(logits[member], rho=rho[member].item())
        torch.testing.assert_close(kl[member], expected)


@pytest.mark.parametrize(
    ("logits", "rho", "error", "message"),
    [
        ([0.5], 0.2, TypeError, "logits must be a torch.Tensor, got list"),
        (torch.tensor([1]), 0.2, TypeError, "logits must have a floating dtype, got torch.int64"),
        (torch.tensor(0.5), 0.2, ValueError, r"logits must have at least 1 dims, got shape \(\)"),
        (torch.empty(0), 0.2, ValueError, r"logits must not be empty, got shape \(0,\)"),
        (torch.zeros(1), 0, ValueError, "rho must lie strictly between 0 and 1, got 0"),
        (torch.zeros(1), 1.5, ValueError, "rho must lie strictly between 0 and 1, got 1.5"),
        (torch.zeros(1), math.nan, ValueError, "rho must lie strictly between 0 and 1, got nan"),
        (torch.zeros(1), torch.tensor([1.0]), ValueError, r"rho must .* 0 and 1, got tensor"),
        (torch.zeros(1), "0.2", TypeError, "rho must be a number or a tensor, got str"),
        (torch.zeros(1), True, TypeError, "rho must be a number or a tensor, got bool"),
    ],
)
def test_bad_input_to_kl_with_logits_is_refused(logits, rho, error, message):
    with pytest.raises(error, match=message):
        bernoulli_kl_with_logits(logits, rho=rho)
