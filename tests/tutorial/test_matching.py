import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saetools.tutorial.matching import Match, match_factors, phi_coefficients


@st.composite
def tables(draw):
    """Pre-activations (B, L) and factors (B, K) of a few rows, with units that never vary too."""
    rows, units, factors = draw(st.integers(2, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    on, active = (
        torch.tensor(draw(st.lists(st.booleans(), min_size=rows * n, max_size=rows * n))).reshape(
            rows, n
        )
        for n in (factors, units)
    )
    return active.float() - 0.5, on.float()


def pearson(z, factors):
    """numpy's correlation of the binary columns, 0 where one of them is constant."""
    active, on = (z > 0).numpy().astype(float), (factors > 0).numpy().astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        both = np.corrcoef(active.T, on.T)
    return torch.tensor(np.nan_to_num(both[: active.shape[1], active.shape[1] :]))


@given(table=tables())
def test_phi_is_the_correlation_of_the_two_binary_columns(table):
    z, factors = table
    phi = phi_coefficients(z, factors)
    assert phi.shape == (z.shape[1], factors.shape[1])
    assert phi.dtype == torch.float64
    assert (phi.abs() <= 1 + 1e-12).all()
    torch.testing.assert_close(phi, pearson(z, factors), rtol=0, atol=1e-12)


def test_only_the_signs_count():
    z = torch.randn(200, 3)
    factors = (torch.rand(200, 5) - 0.6).clamp(min=0)
    phi = phi_coefficients(z, factors)
    assert torch.equal(phi, phi_coefficients(z.sign() * torch.rand(200, 3), (factors > 0).float()))
    assert torch.equal(phi, phi_coefficients(z.relu(), factors))  # latents tell the same
    torch.testing.assert_close(phi_coefficients(-z, factors), -phi)


@given(copies=st.integers(2, 4))
def test_duplicating_the_rows_leaves_phi(copies):
    z, factors = torch.randn(30, 3), torch.randn(30, 2)
    once, many = (
        phi_coefficients(z, factors),
        phi_coefficients(z.repeat(copies, 1), factors.repeat(copies, 1)),
    )
    torch.testing.assert_close(once, many)


def test_a_unit_or_factor_that_is_never_or_always_on_gives_0():
    z = torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, -1.0], [1.0, -1.0, -1.0]])
    factors = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    expected = torch.zeros(3, 3).double()
    expected[2, 0] = 1
    torch.testing.assert_close(phi_coefficients(z, factors), expected)
    dead = match_factors(z[:, 1:2], factors)
    assert dead.mean == 0
    assert dead.phi.tolist() == [[0.0] * 3]


@given(table=tables())
def test_no_other_pairing_has_a_larger_mean(table):
    match = match_factors(*table)
    phi = pearson(*table)
    units, factors = phi.shape
    wide, pairs = phi if units <= factors else phi.T, min(units, factors)
    best = max(
        sum(wide[row, column].item() for row, column in enumerate(chosen)) / pairs
        for chosen in itertools.permutations(range(wide.shape[1]), pairs)
    )
    assert match.mean == pytest.approx(best, abs=1e-9)
    assert len(match.units) == len(match.factors) == pairs
    assert len(set(match.units.tolist())) == len(set(match.factors.tolist())) == pairs
    assert match.mean == pytest.approx(phi[match.units, match.factors].mean().item(), abs=1e-9)


def test_a_permutation_is_found_and_surplus_units_are_left_out():
    factors = (torch.rand(300, 4) < 0.2).float()
    order = torch.tensor([2, 0, 3, 1])
    z = torch.cat([torch.full((300, 1), -1.0), factors[:, order] - 0.5], -1).requires_grad_()
    match = match_factors(z, factors)
    assert isinstance(match, Match)
    assert isinstance(match.mean, float)
    assert match.mean == pytest.approx(1)
    assert match.units.tolist() == [1, 2, 3, 4]
    assert torch.equal(match.factors, order)
    assert not match.phi.requires_grad


def test_two_units_cannot_share_a_factor():
    factor = (torch.arange(100) < 20).float()[:, None]
    other = (torch.arange(100) % 5 == 0).float()[:, None]
    factors = torch.cat([factor, other], -1)  # uncorrelated, both on for 20 of 100
    match = match_factors(torch.cat([factor, factor], -1), factors)
    assert match.mean == pytest.approx(0.5)


Z, ON = torch.ones(3, 2), torch.ones(3, 4)


@pytest.mark.parametrize("function", [phi_coefficients, match_factors])
@pytest.mark.parametrize(
    ("z", "factors", "error", "message"),
    [
        ([1.0], ON, TypeError, "pre_activations must be a torch.Tensor, got list"),
        (Z, None, TypeError, "factors must be a torch.Tensor, got NoneType"),
        (Z, ON > 0, TypeError, r"factors must have a floating .* torch.bool: use factors.float"),
        (Z[0], ON, ValueError, r"pre_activations must have at least 2 dims, got shape \(2,\)"),
        (Z[None], ON, ValueError, r"pre_activations must have 2 dims, .*, got shape \(1, 3, 2\)"),
        (Z, ON[None], ValueError, r"factors must have 2 dims, .*, got shape \(1, 3, 4\)"),
        (Z, ON[:0], ValueError, r"factors must not be empty, got shape \(0, 4\)"),
        (Z, ON[:2], ValueError, "factors must have the rows of pre_activations, 3, got 2"),
    ],
)
def test_bad_pre_activations_and_factors_are_refused(function, z, factors, error, message):
    with pytest.raises(error, match=message):
        function(z, factors)


def test_nan_is_refused_by_phi():
    z, factors = torch.tensor([[math.nan], [1.0]]), torch.tensor([[0.0], [1.0]])
    with pytest.raises(ValueError, match="pre_activations must be finite, got nan"):
        phi_coefficients(z, factors)
    with pytest.raises(ValueError, match="factors must be finite, got nan"):
        phi_coefficients(factors, z)
