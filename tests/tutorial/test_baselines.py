import pytest
import torch

from saetools.tutorial.baselines import (
    fast_ica,
    principal_components,
    random_directions,
    untrained_start,
)
from saetools.tutorial.comparison import crowded_task, measured, mixture_task

MIXTURE = mixture_task(1)
EVERY = pytest.mark.parametrize(
    "make", [fast_ica, principal_components, random_directions, untrained_start]
)


@EVERY
def test_a_baseline_is_at_rho_and_read_no_worse_than_by_the_mean(make):
    for row in measured(MIXTURE, make(MIXTURE, [0])):
        assert row["worst"] < 0.001
        assert 0 < row["fvu"] < 1


@EVERY
def test_a_baseline_has_as_many_units_as_are_asked_for_even_beyond_the_inputs(make):
    task = crowded_task(0)
    [model] = make(task, [0])
    assert model(task.test).pre_activations.shape == (len(task.test), 12)


def test_the_decoder_is_ordinary_least_squares():
    [model] = random_directions(MIXTURE, [0])
    out = model(MIXTURE.train)
    left = MIXTURE.train - out.reconstruction
    assert (out.latents.T @ left).abs().max() < 0.05  # nothing more to be read from the latents
    assert left.mean(0).abs().max() < 1e-5


def test_ica_finds_the_mixtures_factors_and_random_directions_do_not():
    [ica], [random] = (
        measured(MIXTURE, make(MIXTURE, [0])) for make in (fast_ica, random_directions)
    )
    assert ica["match"] > 0.95 > 0.7 > random["match"]
    assert torch.tensor([ica["share"], ica["auc"]]).min() > 0.95
