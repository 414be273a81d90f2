"""Thresholds under a band: one for all, and an offset for each that leaves the band."""

import math

import pytest
import torch

from saetools import FrequencyThreshold

Z = torch.randn(4000, 6, generator=torch.Generator().manual_seed(9)) * torch.arange(1.0, 7)


def started(latents=6, rho=0.1, **options):
    return FrequencyThreshold(latents, rho, **{"rate": 0.05, **options}).start(Z[:, :latents])


def test_it_starts_at_one_threshold_for_all():
    threshold = started(band=5.0)
    assert len(threshold.theta.unique()) == 1
    share = (threshold.theta < Z).float().mean(0)
    assert share.mean().item() == pytest.approx(0.1, abs=1e-6)
    assert torch.equal(share, threshold.frequency)
    assert share.max() > 5 * share.min().clamp(min=1e-3)


def test_members_of_an_ensemble_each_have_their_own():
    both = FrequencyThreshold(6, torch.tensor([[0.1], [0.3]]), band=5.0)
    both.start(torch.stack([Z, 2 * Z]))
    alone = [FrequencyThreshold(6, rho, band=5.0) for rho in (0.1, 0.3)]
    for own, member, z in zip(both.theta, alone, (Z, 2 * Z), strict=True):
        assert torch.equal(own, member.start(z).theta)


def test_without_a_start_the_first_batch_stands_in():
    threshold = FrequencyThreshold(6, 0.1, band=5.0)
    threshold(Z)
    assert len(threshold.theta.unique()) == 1
    assert 0.05 < threshold.eval()(Z).ne(0).float().mean() < 0.2


@pytest.mark.parametrize(
    ("band", "below", "above"), [((2.0, 2.0), 0.05, 0.2), ((5.0, 3.0), 0.02, 0.3), (2.0, 0.05, 0.5)]
)
def test_a_latent_that_leaves_the_band_is_brought_back(band, below, above):
    threshold = started(4, 0.1, band=band, rate=0.2)
    threshold.frequency.copy_(torch.tensor([0.06, 0.19, 0.7, 0.001]))
    before = threshold.theta.clone()
    z = torch.full((100, 4), -100.0)
    z[:10] = 100.0  # each on for a tenth of the rows: the mean is met
    threshold(z)
    moved = threshold.theta - before
    assert moved[:2].abs().max() < 1e-5
    running = 0.97 * torch.tensor([0.7, 0.001]) + 0.03 * 0.1
    up = (running[0] / above).log().clamp(max=1)
    down = (below / running[1]).log().clamp(max=1)
    step = 0.2 * threshold.spread[2:]
    assert torch.allclose(moved[2:], step * torch.stack([up, -down]), rtol=1e-4)
    assert torch.allclose(threshold.offset[2:], moved[2:], rtol=1e-4)
    # Back in the band, what is left of the offset leaks away.
    threshold.frequency.fill_(0.1)
    theta, offset = threshold.theta.clone(), threshold.offset.clone()
    threshold(z)
    assert torch.allclose(threshold.offset, 0.99 * offset)
    assert torch.allclose(threshold.theta - theta, -0.01 * offset, atol=1e-5)
    threshold.offset.fill_(1000.0)  # far from the others it goes back by no more than a fifth step
    threshold(z)
    assert torch.allclose(threshold.offset, 1000 - 0.2 * 0.2 * threshold.spread)


def test_all_thresholds_together_follow_the_mean():
    threshold = started(4, 0.1, band=100.0)
    before = threshold.theta.clone()
    z = torch.full((100, 4), -100.0)
    z[:20, :2], z[:12, 2:] = 100.0, 100.0  # 0.16 on average
    threshold(z)
    expected = 0.05 * threshold.spread.mean() * 0.6
    assert torch.allclose(threshold.theta - before, expected, rtol=1e-3)


def test_none_is_dead_or_dense_and_the_mean_is_kept():
    threshold = FrequencyThreshold(6, 0.05, band=(5.0, 2.0), rate=0.05)
    scales = torch.tensor([0.3, 0.3, 1.0, 1.0, 1.0, 10.0])  # far apart on one threshold
    generator = torch.Generator().manual_seed(1)
    for _ in range(2000):
        threshold(scales * torch.randn(512, 6, generator=generator))
    threshold.eval()
    found = threshold(scales * torch.randn(50_000, 6, generator=generator)).ne(0).float().mean(0)
    assert found.mean().item() == pytest.approx(0.05, rel=0.1)
    assert found.min() > 0.01 * 0.7
    assert found.max() < 0.1 * 1.3
    assert found.min() < 0.025  # and not at rho each


def test_start_keeps_the_offsets_and_meets_the_mean():
    threshold = started(band=(2.0, 2.0))
    for part in Z.split(200):
        threshold(part)
    offset = threshold.offset.clone()
    assert offset.abs().max() > 0.01
    threshold.start(Z)
    assert torch.equal(threshold.offset, offset)
    assert (threshold.theta - offset).std() < 1e-5
    assert threshold.frequency.mean().item() == pytest.approx(0.1, abs=1e-6)


def test_adopt_prescribes_what_the_latents_do_within_the_band():
    z = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(2))
    threshold = FrequencyThreshold(6, 0.1, band=(4.0, 4.0), rate=0.05).start(z)
    found = torch.tensor([0.001, 0.05, 0.1, 0.15, 0.2, 0.6])
    threshold.theta.copy_(torch.stack([a.quantile(1 - f) for a, f in zip(z.T, found, strict=True)]))
    threshold.adopt(z)
    assert threshold.rho.mean().item() == pytest.approx(0.1, abs=1e-6)
    assert threshold.rho.min() == pytest.approx(0.025)
    assert threshold.rho.max() <= 0.4
    middle = threshold.rho[1:5] / found[1:5]
    assert torch.allclose(middle, middle.mean(), rtol=1e-2)  # one factor for all within the band
    assert (threshold.eval()(z).ne(0).float().mean(0) - threshold.rho).abs().max() < 1e-4
    threshold.train()
    theta = threshold.theta.clone()
    threshold(torch.full((100, 6), -100.0))  # never on: each falls, and is not free any more
    assert torch.allclose(threshold.theta, theta - 0.05 * threshold.spread)
    assert torch.allclose(threshold.start(z).frequency, threshold.rho, atol=1e-4)


def test_adopt_needs_a_band_and_thresholds():
    with pytest.raises(ValueError, match="band must be given"):
        started().adopt(Z)
    with pytest.raises(RuntimeError, match="adopt needs thresholds"):
        FrequencyThreshold(6, 0.1, band=2).adopt(Z)
    threshold = started().adopt(Z, band=3.0)
    assert threshold.rho.mean().item() == pytest.approx(0.1)


def test_a_band_wider_than_1_is_cut_at_a_half():
    threshold = started(4, 0.2, band=20.0).adopt(Z[:, :4])
    assert threshold.rho.max() <= 0.5
    assert math.isclose(threshold.rho.mean().item(), 0.2, rel_tol=1e-6)
