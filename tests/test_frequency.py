import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saetools import activation_frequency


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
