import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from saetools.tutorial.claims import about, at_least, at_most, rounded


@given(value=st.floats(-100, 100), digits=st.integers(0, 4), wobble=st.floats(-1, 1))
def test_what_is_printed_does_not_change_within_the_margin(value, digits, wobble):
    try:
        text = rounded(value, digits, margin=0.1)
    except ValueError:
        assume(False)
    nearby = value + 0.09 * wobble * 10**-digits
    assert rounded(nearby, digits, margin=0) == text


@pytest.mark.parametrize("value", [0.125, 0.12496, 0.1254, -0.125, 7.995])
def test_values_near_a_boundary_are_refused(value):
    with pytest.raises(ValueError, match="of a last digit from a rounding boundary at 2 digits"):
        rounded(value, 2)


def test_values_away_from_it_are_printed():
    assert rounded(torch.tensor(0.1302), 2) == "0.13"
    assert rounded(0.0, 1) == "0.0"
    assert rounded(2, 0) == "2"
    assert rounded(-0.001) == rounded(0.001) == "0.00"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="value must be finite"):
        rounded(value)


@pytest.mark.parametrize("margin", [-0.1, 0.5, math.nan])
def test_a_senseless_margin_is_refused(margin):
    with pytest.raises(ValueError, match=r"margin must lie in \[0, 0.5\)"):
        rounded(0.3, margin=margin)


def test_claims_are_printed_if_they_hold():
    assert at_least(torch.tensor(13), 10, of=16) == "at least 10 of 16"
    assert at_most(0.31, 0.4) == "at most 0.4"


@pytest.mark.parametrize("value", [9, math.nan])
def test_at_least_fails_with_the_value(value):
    with pytest.raises(AssertionError, match=f"claimed at least 10, measured {value}"):
        at_least(value, 10)


@pytest.mark.parametrize("value", [11, math.nan])
def test_at_most_fails_with_the_value(value):
    with pytest.raises(AssertionError, match=f"claimed at most 10, measured {value}"):
        at_most(value, 10)


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ((0.40, 0.39, 0.03), "0.39 ± 0.03"),
        ((0.42, 0.39, 0.03), "0.39 ± 0.03"),
        ((0.36, 0.39, 0.03), "0.39 ± 0.03"),
        ((torch.tensor(19), 20, 2), "20 (18 to 22)"),
        ((1, 0, 2), "0 (0 to 2)"),
        ((3, 3, 0), "3"),
    ],
)
def test_a_value_within_its_tolerance_is_printed_as_it_is_expected(claim, words):
    assert about(*claim) == words
    assert about(torch.tensor(31), 31, 2, of=32) == "31 (29 to 32) of 32"


@pytest.mark.parametrize("claim", [(0.43, 0.39, 0.03), (23, 20, 2), (math.nan, 0.39, 0.03)])
def test_a_value_beyond_its_tolerance_is_refused(claim):
    with pytest.raises(AssertionError, match=r"claimed (0.39 ± 0.03|20 \(18 to 22\)), measured"):
        about(*claim)
