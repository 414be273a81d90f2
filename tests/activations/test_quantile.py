"""`start`, which sets each threshold exactly."""

import pytest
import torch

from saetools import FrequencyThreshold, frequency_law, target_frequency_


@pytest.mark.parametrize("count", [40, 1001])
@pytest.mark.parametrize("rho", [0.03, 0.5, 0.97, frequency_law(130, 0.1, floor=0.03, seed=1)])
def test_it_is_half_way_between_the_values_that_it_separates(count, rho):
    z = torch.randn(count, 130)  # more latents than are sorted at once
    threshold = FrequencyThreshold(130, rho).start(z)
    ordered = z.sort(dim=0, descending=True).values
    for j in range(130):
        k = round(float(threshold.rho[j]) * count)
        assert threshold.theta[j] == (ordered[k - 1, j] + ordered[k, j]) / 2
        assert (z[:, j] > threshold.theta[j]).sum() == k
    assert torch.allclose(threshold.spread, z.std(0))


def test_it_is_the_shift_of_target_frequency():
    z = torch.randn(500, 7).double()
    theta = FrequencyThreshold(7, 0.2).double().start(z).theta
    assert torch.allclose(theta, -target_frequency_(torch.zeros(7).double(), z, 0.2))


def test_members_of_an_ensemble_each_have_their_own():
    z, rho = torch.randn(3, 200, 7), torch.tensor([[0.1], [0.2], [0.3]])
    together = FrequencyThreshold(7, rho).start(z).theta
    for own, part, each in zip(together, z, rho, strict=True):
        assert torch.equal(own, FrequencyThreshold(7, float(each)).start(part).theta)


def test_ties_are_told():
    z = torch.randn(100, 4)
    z[:, 2] = 1.0
    with pytest.warns(RuntimeWarning, match=r"1 latent.* latent 2 is asked for 0.1 .* active on 0"):
        FrequencyThreshold(4, 0.1).start(z)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.randn(99, 4), "at least 1 / rho = 100 rows, for the least rho, got 99"),
        (torch.full((200, 4), torch.nan), "pre_activations must be finite"),
        (torch.randn(200, 3), "pre_activations must have 4 latents"),
    ],
)
def test_bad_rows(z, message):
    threshold = FrequencyThreshold(4, torch.tensor([0.01, 0.1, 0.1, 0.1]))
    with pytest.raises(ValueError, match=message):
        threshold.start(z)
    assert threshold.theta.isinf().all()


def test_again_after_training_it_is_exact_again():
    threshold = FrequencyThreshold(4, 0.1).start(torch.randn(1000, 4))
    for _ in range(20):
        threshold(3 * torch.randn(64, 4))
    z = torch.randn(1000, 4)
    assert (threshold(z) != 0).float().mean(0).sub(0.1).abs().max() > 0.01
    assert (threshold.start(z).eval()(z) != 0).sum(0).tolist() == [100] * 4
