"""No function of the package disturbs the global random generators."""

import pytest
import torch

import saetools
from saetools import SparseAutoencoder, frequency_penalty
from saetools.training.checkpoints import GlobalRandomStates

X = torch.rand(60, 20, generator=torch.Generator().manual_seed(0))


def penalty(output):
    return frequency_penalty(output.pre_activations, rho=0.2, dim=-2)


def model(seed=0):
    return SparseAutoencoder(seed=seed)


FUNCTIONS = {
    "SparseAutoencoder": lambda path: model(),
    "PostedAutoencoder": lambda path: saetools.PostedAutoencoder(seed=0),
    "chicago_context": lambda path: saetools.chicago_context(),
    "sparse_mixture": lambda path: saetools.sparse_mixture(30, seed=0),
    "batches": lambda path: next(saetools.batches(X, 8, seed=0)),
    "skewed_units_": lambda path: saetools.skewed_units_(
        torch.nn.utils.skip_init(torch.nn.Linear, 20, 4), X
    ),
    "initialise_for_frequency_": lambda path: saetools.initialise_for_frequency_(
        model(), X, rho=0.2
    ),
    "start_at_frequency_": lambda path: saetools.start_at_frequency_([model()], X, rho=0.2),
    "train": lambda path: saetools.train(model(), X, penalty, steps=3),
    "train with checkpoints": lambda path: [
        saetools.train(model(), X, penalty, steps=3, checkpoint=path / "t") for _ in range(2)
    ],
    "train_ensemble": lambda path: saetools.train_ensemble(
        [model(), model(1)], X, penalty, steps=3
    ),
    "train_ensemble with checkpoints": lambda path: [
        saetools.train_ensemble([model()], X, penalty, steps=3, checkpoint=path / "e")
        for _ in range(2)
    ],
    "train_at_frequency": lambda path: saetools.train_at_frequency([model()], X, rho=0.2, steps=7),
    "evaluate": lambda path: saetools.evaluate(model(), X),
    "save": lambda path: saetools.save(model(), path / "m"),
    "load": lambda path: (saetools.save(model(), path / "m"), saetools.load(path / "m")),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_the_global_random_generators_are_left_as_they_were_found(tmp_path, function):
    def states():
        kept = GlobalRandomStates(torch.device("cpu")).state_dict()["states"]
        return {
            name: str(getattr(state, "tolist", lambda s=state: s)()) for name, state in kept.items()
        }

    before = states()
    function(tmp_path)
    assert states() == before
