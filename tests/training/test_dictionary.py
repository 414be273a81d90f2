"""The one-hidden-layer form that researchers call a sparse autoencoder."""

import pytest
import torch
from torch import nn

from saetools import (
    SparseAutoencoder,
    activation_frequency,
    dead_latents,
    evaluate,
    frequency_penalty,
    initialise_for_frequency_,
    load,
    save,
    sparse_mixture,
    train,
    train_at_frequency,
    train_ensemble,
)

OPTIONS = {"centred": True, "unit_norm_decoder": True}
DATA = sparse_mixture(2000, seed=0)
SPREAD = DATA.train.var(0).mean().sqrt()
OFFSET = torch.linspace(5, 30, 20)  # far from 0, as activations are
X, HELD_OUT = (rows / SPREAD + OFFSET for rows in (DATA.train, DATA.test))


def dictionary(seed=0, units=4, **options):
    return SparseAutoencoder((20, units), nn.Identity(), seed=seed, **(OPTIONS | options))


def penalty(output):
    return frequency_penalty(output.pre_activations, rho=0.15, dim=-2)


def norms(model):
    return model.decoder[0].weight.detach().norm(dim=0).tolist()


def test_it_computes_what_the_papers_write():
    model, x = dictionary(), torch.randn(7, 20)
    with torch.no_grad():
        model.decoder[0].bias.copy_(torch.arange(20.0))
        model.decoder[0].weight.mul_(3.0)  # as a loop of one's own may leave it
    encoder, decoder = model.encoder[0], model.decoder[0]
    z = (x - decoder.bias) @ encoder.weight.T + encoder.bias
    directions = nn.functional.normalize(decoder.weight, dim=0)  # (D, L), a column per unit
    output = model(x)
    torch.testing.assert_close(output.pre_activations, z)
    torch.testing.assert_close(output.reconstruction, z.relu() @ directions.T + decoder.bias)
    model.normalise_()
    assert norms(model) == pytest.approx([1] * 4)
    torch.testing.assert_close(model(x).reconstruction, output.reconstruction)


def test_a_column_has_no_gradient_along_itself():
    model = dictionary()
    model(X[:50]).reconstruction.square().mean().backward()
    weight = model.decoder[0].weight
    along = (weight * weight.grad).sum(0)
    assert (along.abs() <= 1e-4 * weight.grad.norm(dim=0)).all()
    assert (weight.grad.norm(dim=0) > 0).any()


def test_a_deep_one_has_directions_where_the_code_enters_the_decoder():
    model = SparseAutoencoder((20, 9, 4), nn.Identity(), seed=0, **OPTIONS)
    assert norms(model) == pytest.approx([1] * 4)
    assert torch.equal(model.code_inputs(X), model.encoder[0](X - model.decoder[1].bias).relu())


def test_without_the_options_nothing_is_other_than_it_was():
    plain, other = (dictionary(**o) for o in (dict.fromkeys(OPTIONS, False), {}))
    assert torch.equal(plain.encoder[0].weight, other.encoder[0].weight)
    assert norms(plain) != pytest.approx([1] * 4)
    assert torch.equal(plain.code_inputs(X), X)


def test_a_centred_one_has_no_function_on_its_output():
    with pytest.raises(
        ValueError, match=r"centred=True needs output=nn\.Identity\(\), got <built-"
    ):
        SparseAutoencoder((20, 4), centred=True)


def test_training_keeps_the_columns_at_a_norm_of_1_alone_and_stacked():
    alone, together = [dictionary(seed) for seed in range(2)], [dictionary(s) for s in range(2)]
    for seed, model in enumerate(alone):
        train(model, X, penalty, steps=20, lr=0.1, seed=seed, value_range=None)
        assert norms(model) == pytest.approx([1] * 4)
        assert model.decoder[0].weight[0, 0] != dictionary(seed).decoder[0].weight[0, 0]
    train_ensemble(together, X, penalty, steps=20, lr=0.1, value_range=None)
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_it_starts_at_the_mean_of_the_rows():
    model = initialise_for_frequency_(dictionary(), X, rho=0.15)
    torch.testing.assert_close(model.decoder[0].bias, X.mean(0))
    assert activation_frequency(model.encode(X)).tolist() == pytest.approx([0.15] * 4, abs=1e-3)
    assert evaluate(model, X).fvu < 1  # with a bias at 0 it is over 100
    active = model(X).latents.detach()
    along = nn.functional.normalize((X - X.mean(0)).T @ active, dim=0)
    torch.testing.assert_close(model.decoder[0].weight.detach(), along)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_recipe_holds_its_bias_with_the_encoder(seed):
    model = dictionary(seed)
    before = []
    options = {"steps": 350, "value_range": None, "observe_every": 250}
    look = lambda ensemble: before.append(ensemble.decoder[0].bias.clone())  # noqa: E731
    train_at_frequency(model, X, rho=0.15, observe=look, **options)
    assert torch.equal(before[2], before[3])
    assert not torch.equal(before[0], before[2])
    assert activation_frequency(model.encode(X)).tolist() == pytest.approx([0.15] * 4, abs=1e-3)
    frequency = activation_frequency(model.encode(HELD_OUT))
    assert ((frequency - 0.15).abs() < 0.03).all()
    assert evaluate(model, HELD_OUT).fvu < 0.6
    assert norms(model) == pytest.approx([1] * 4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_code_wider_than_the_rows_reaches_rho_in_every_unit(seed):
    model = dictionary(seed, units=48)
    train_at_frequency(model, X, rho=0.05, skewed=False, steps=350, value_range=None)
    frequency = activation_frequency(model.encode(HELD_OUT))
    assert ((frequency - 0.05).abs() < 0.03).all()
    assert not dead_latents(frequency).any()
    assert evaluate(model, HELD_OUT).fvu < 0.6


def test_a_file_brings_it_back(tmp_path):
    model = dictionary()
    save(model, tmp_path / "a")
    again = load(tmp_path / "a")
    assert again.centred
    assert again.unit_norm_decoder
    assert torch.equal(again(X).reconstruction, model(X).reconstruction)
