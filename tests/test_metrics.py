import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saetools import (
    FrequencyMeter,
    SparseAutoencoder,
    activation_frequency,
    chicago_context,
    dead_latents,
    dense_latents,
    evaluate,
    fvu,
    l0,
    usage_perplexity,
)


def test_fvu_is_0_when_perfect_and_1_at_the_mean():
    x = torch.rand(50, 6)
    assert fvu(x, x) == 0
    assert fvu(x.mean(0).expand_as(x), x).item() == pytest.approx(1)


def test_fvu_of_pca_is_the_share_of_the_variance_that_is_left():
    x = torch.rand(200, 6, dtype=torch.float64)
    centred = x - x.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    rank2 = (u[:, :2] * s[:2]) @ v[:2] + x.mean(0)
    expected = (s[2:] ** 2).sum() / (s**2).sum()
    torch.testing.assert_close(fvu(rank2, x), expected)


@given(scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_fvu_does_not_depend_on_units(scale, shift):
    generator = torch.Generator().manual_seed(0)
    x, r = (torch.rand(20, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(fvu(scale * r + shift, scale * x + shift), fvu(r, x))


def test_fvu_of_many_models_is_one_number_each():
    x, r = torch.rand(30, 4), torch.rand(5, 30, 4)
    stacked = fvu(r, x)
    assert stacked.shape == (5,)
    torch.testing.assert_close(stacked[2], fvu(r[2], x))


def test_known_pca_of_the_chicago_days():
    days = chicago_context()
    mean = days.train.mean(0)
    _, _, v = torch.linalg.svd(days.train - mean, full_matrices=False)
    rank4 = (days.test - mean) @ v[:4].T @ v[:4] + mean
    assert fvu(rank4, days.test).item() == pytest.approx(0.24, abs=0.005)


@pytest.mark.parametrize(
    ("reconstruction", "x", "message"),
    [
        (torch.rand(4, 3), torch.full((4, 3), 0.5), "x must vary"),
        (torch.rand(7, 3), torch.full((7, 3), 0.1), "x must vary"),
        (torch.rand(4, 3), torch.rand(4, 2), r"shape of x, \(4, 2\), got \(4, 3\)"),
        (torch.full((4, 3), math.nan), torch.rand(4, 3), "reconstruction must be finite, got nan"),
        (torch.rand(4, 3), torch.full((4, 3), math.inf), "x must be finite, got inf"),
        (torch.rand(1, 3), torch.rand(1, 3), "x must have at least 2 rows"),
    ],
)
def test_fvu_refuses_what_would_be_nan(reconstruction, x, message):
    with pytest.raises(ValueError, match=message):
        fvu(reconstruction, x)


def test_l0_dead_and_dense():
    pre = torch.cat([torch.ones(100, 1), -torch.ones(100, 1), torch.ones(100, 1)], -1)
    pre[0, 2] = -1  # on for exactly 99 % of the rows
    rho_hat = activation_frequency(pre)
    assert l0(pre).item() == pytest.approx(1.99)
    assert dead_latents(rho_hat).tolist() == [False, True, False]
    assert dead_latents(torch.tensor([1e-6, 0.0])).tolist() == [False, True]
    assert l0(torch.stack([pre, -pre])).tolist() == pytest.approx([1.99, 1.01])
    assert dense_latents(rho_hat, above=0.98).tolist() == [True, False, True]
    assert dense_latents(torch.tensor([0.99, 0.9901])).tolist() == [False, True]


@given(cut=st.integers(1, 99))
def test_meter_does_not_care_how_the_rows_are_cut(cut):
    pre = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    meter = FrequencyMeter()
    for rows in (pre[:cut], pre[cut:]):
        meter.update(rows)
    assert meter.rows == 100
    torch.testing.assert_close(meter.compute(), activation_frequency(pre))


def test_meter_says_what_is_wrong():
    meter = FrequencyMeter()
    with pytest.raises(RuntimeError, match="at least one update"):
        meter.compute()
    meter.update(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"units of the first update, \(3,\), got \(4,\)"):
        meter.update(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"must be finite, got nan at \(0, 1\) and 1 such"):
        meter.update(torch.tensor([[1.0, math.nan, 1.0]]))


def test_evaluate_leaves_no_graph_and_matches_its_parts():
    model, x = SparseAutoencoder(seed=0), torch.rand(40, 20)
    result = evaluate(model, x)
    output = model(x)
    assert result.fvu == fvu(output.reconstruction, x).item()
    assert torch.equal(result.frequency, activation_frequency(output.pre_activations))
    assert not result.frequency.requires_grad
    assert not fvu(output.reconstruction, x).requires_grad


def test_evaluate_switches_dropout_off_and_the_mode_back():
    model = SparseAutoencoder(seed=0)
    model.encoder[1] = torch.nn.Sequential(torch.nn.Dropout(0.5), model.encoder[1])
    model.encoder[0].eval()
    x = torch.rand(40, 20)
    assert evaluate(model, x).fvu == evaluate(model, x).fvu
    assert model.training
    assert model.encoder[1][0].training
    assert not model.encoder[0].training


def test_evaluate_refuses_what_it_cannot_judge():
    with pytest.raises(
        ValueError, match=r"x must have 2 dims, \(rows, D\), got shape \(3, 5, 20\)"
    ):
        evaluate(SparseAutoencoder(seed=0), torch.rand(3, 5, 20))
    broken = SparseAutoencoder(seed=0)
    broken.encoder[0].weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="pre_activations must be finite, got nan"):
        evaluate(broken, torch.rand(5, 20))


def test_half_precision_neither_overflows_nor_loses_counts():
    x = torch.rand(70_000, 20).half()
    assert fvu(1 - x, x).isfinite()
    pre = -torch.ones(500, 1, dtype=torch.bfloat16)
    pre[:499] = 1
    assert activation_frequency(pre).item() == pytest.approx(0.998)


@pytest.mark.parametrize("above", [-0.1, 1, math.nan])
def test_a_senseless_share_is_refused(above):
    with pytest.raises(ValueError, match="above must"):
        dense_latents(torch.tensor([0.5]), above=above)


def test_meter_keeps_the_members_of_an_ensemble_apart():
    meter, pre = FrequencyMeter(), torch.randn(4, 30, 3)
    meter.update(pre[:, :10])
    meter.update(pre[:, 10:])
    torch.testing.assert_close(meter.compute(), activation_frequency(pre))


def test_one_process_over_its_ranks_is_a_copy():
    meter = FrequencyMeter()
    assert meter.over_ranks().active is None
    meter.update(torch.tensor([[1.0, -1.0]]))
    copy = meter.over_ranks()
    copy.update(torch.tensor([[1.0, 1.0]]))
    assert (meter.rows, copy.rows) == (1, 2)
    assert meter.compute().tolist() == [1, 0]


def test_a_meter_is_saved_gone_on_with_and_begun_anew(tmp_path):
    meter, pre = FrequencyMeter(), torch.randn(30, 3)
    meter.update(pre[:10])
    torch.save(meter.state_dict(), tmp_path / "meter.pt")
    meter.update(pre[10:])
    other = FrequencyMeter()
    other.load_state_dict(torch.load(tmp_path / "meter.pt", weights_only=True))
    other.update(pre[10:])
    assert torch.equal(meter.compute(), other.compute())
    meter.reset()
    with pytest.raises(RuntimeError, match="at least one update"):
        meter.compute()
    meter.update(pre[:5, :2])  # other units
    assert torch.equal(meter.compute(), activation_frequency(pre[:5, :2]))
    fresh = FrequencyMeter()
    fresh.load_state_dict(FrequencyMeter().state_dict())
    assert (fresh.active, fresh.rows) == (None, 0)


def test_usage_perplexity_counts_the_units_that_are_used_evenly():
    for used in range(1, 6):
        share = torch.zeros(5).index_fill_(0, torch.arange(used), 0.3)
        assert usage_perplexity(share).item() == pytest.approx(used, rel=1e-6)
    uneven = torch.tensor([[3.0, 1.0], [1.0, 1.0]])
    by_hand = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert usage_perplexity(uneven).tolist() == pytest.approx([by_hand, 2])
    assert usage_perplexity(uneven.half()).dtype == torch.float32


@pytest.mark.parametrize("rho_hat", [[0.0, 0.0], [1.0, -0.5]])
def test_usage_that_is_none_has_no_perplexity(rho_hat):
    with pytest.raises(ValueError, match="rho_hat must be >= 0, and not all 0"):
        usage_perplexity(torch.tensor(rho_hat))
