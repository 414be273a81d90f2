import pytest
import torch

from saetools import Law, fit_law, frequency_law


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("latents", "mean"), [(1536, 24 / 1536), (512, 0.02), (4, 0.2), (1, 0.1)])
def test_its_mean_is_exact_and_it_keeps_its_bounds(latents, mean, exponent):
    rho = frequency_law(latents, mean, exponent, 3.0, floor=mean / 8, ceiling=0.3)
    assert rho.shape == (latents,)
    assert rho.double().mean().item() == pytest.approx(mean, rel=1e-6)
    assert rho.min() >= mean / 8 * (1 - 1e-6)
    assert rho.max() <= 0.3 * (1 + 1e-6)
    assert torch.equal(rho, rho.sort(descending=True).values)


def test_between_its_bounds_it_is_the_power_law():
    rho = frequency_law(1000, 0.01, 0.7, 12.0, floor=1e-5).double()
    ranks = torch.arange(1, 1001).double()
    expected = (ranks + 12.0).pow(-0.7)
    assert torch.allclose(rho / rho[0], expected / expected[0], rtol=1e-5)
    clamped = frequency_law(1000, 0.01, 1.0, 1.0, floor=5e-3, ceiling=0.1).double()
    free = (clamped > 5.001e-3) & (clamped < 0.0999)
    ratio = clamped[free] * (ranks[free] + 1.0)
    assert 10 < free.sum() < 1000
    assert torch.allclose(ratio, ratio.mean(), rtol=1e-5)


def test_exponent_0_is_uniform():
    assert torch.allclose(frequency_law(10, 0.05, 0.0), torch.tensor(0.05))


def test_a_seed_decides_an_order_and_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    mixed = [frequency_law(50, 0.1, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(mixed[0], mixed[1])
    assert not torch.equal(mixed[0], mixed[2])
    assert torch.equal(mixed[2].sort(descending=True).values, frequency_law(50, 0.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latents": 0}, "latents must be at least 1"),
        ({"mean": 1.0}, "mean must be less than 1"),
        ({"exponent": -1}, "exponent must be finite and at least 0"),
        ({"shift": -1}, "shift must be finite and at least 0"),
        ({"floor": 0.2}, "mean must lie between floor and ceiling, 0.2 and 0.5: 0.1"),
        ({"ceiling": 0.05}, "mean must lie between floor and ceiling, 0.005 and 0.05: 0.1"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_laws(arguments, message):
    with pytest.raises(ValueError, match=message):
        frequency_law(**{"latents": 10, "mean": 0.1, **arguments})


@pytest.mark.parametrize("law", [Law(1.0, 30.0), Law(0.5, 3.0), Law(1.5, 100.0)])
def test_the_fit_finds_the_law_of_counted_frequencies(law):
    rho = frequency_law(1500, 0.01, *law, floor=1e-5, seed=1)
    generator = torch.Generator().manual_seed(0)
    counted = torch.binomial(torch.full_like(rho, 50_000), rho, generator=generator) / 50_000
    found = fit_law(counted)
    again = frequency_law(1500, 0.01, *found, floor=1e-5, seed=1)
    assert (again / rho).log().abs().quantile(0.9) < 0.1
    assert found.exponent == pytest.approx(law.exponent, rel=0.25)


def test_the_fit_does_not_mind_dead_latents_and_those_at_the_ends_of_a_band():
    rho = frequency_law(1500, 0.01, 1.0, 10.0, floor=1e-5)
    spoilt = torch.cat([rho.clamp(min=0.003), torch.zeros(30)])
    spoilt[:3] = 0.5
    found = fit_law(spoilt)
    again = frequency_law(1500, 0.01, *found, floor=1e-5)
    middle = slice(10, 600)  # the rest is at the floor of 0.003
    assert (again[middle] / rho[middle]).log().abs().max() < 0.35


def test_uniform_frequencies_have_an_exponent_of_about_0():
    generator = torch.Generator().manual_seed(0)
    counted = 0.02 + 1e-5 * torch.randn(500, generator=generator)
    assert fit_law(counted).exponent < 0.05


@pytest.mark.parametrize(
    ("frequencies", "message"),
    [
        (torch.full((9,), 0.1), "8 or more that differ and are not 0"),
        (torch.cat([torch.rand(7), torch.zeros(5)]), "8 or more that differ and are not 0: 7"),
        (torch.linspace(-0.1, 0.5, 20), r"frequencies must lie in \[0, 1\]"),
        (torch.full((9,), torch.nan), r"frequencies must lie in \[0, 1\]"),
    ],
)
def test_bad_frequencies(frequencies, message):
    with pytest.raises(ValueError, match=message):
        fit_law(frequencies)
