import math

import pytest
import torch

from saetools import PostedAutoencoder, activation_frequency, bernoulli_kl, posted_penalty


def encoded():
    return torch.randn(128, 4, generator=torch.Generator().manual_seed(0)).relu()


def test_with_the_askers_rows_the_value_is_the_textbook_penalty():
    latents = encoded()
    expected = 3 * bernoulli_kl(activation_frequency(latents), rho=0.1).sum()
    got = posted_penalty(latents, batch_size=128 * 20, rho=0.1, beta=3)
    torch.testing.assert_close(got, expected)


def test_the_loop_keeps_dead_and_dense_units_finite():
    latents = torch.stack([torch.zeros(10), torch.ones(10)], -1)
    expected = bernoulli_kl(torch.tensor([0.001, 0.999]), rho=0.2).sum()
    torch.testing.assert_close(posted_penalty(latents, batch_size=200), expected)


def test_with_an_ordinary_loader_it_is_nan():
    assert math.isnan(posted_penalty(encoded(), batch_size=128))


def test_it_has_no_gradient():
    output = PostedAutoencoder(seed=0)(torch.rand(16, 20))
    assert output.latents.requires_grad
    assert not posted_penalty(output.latents, batch_size=320).requires_grad


def test_a_partial_batch_is_divided_by_the_wrong_number():
    full, partial = torch.ones(128, 1) * 1.0, torch.ones(64, 1) * 1.0
    assert posted_penalty(partial, batch_size=2560) == pytest.approx(
        bernoulli_kl(torch.tensor([0.5]), rho=0.2).item(), rel=1e-5
    )
    assert posted_penalty(full, batch_size=2560) > 4


def test_the_network_has_a_relu_on_its_output():
    reconstruction = PostedAutoencoder(seed=0)(torch.rand(50, 20)).reconstruction
    assert (reconstruction == 0).any()
    assert (reconstruction >= 0).all()
