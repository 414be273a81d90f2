import pytest
import torch

from saetools import SparseAutoencoder, frequency_penalty, sparse_mixture, train
from saetools.training.models import Output
from saetools.tutorial.harness import side_by_side, trained


def start(*, seed):
    return SparseAutoencoder(seed=seed)


def penalty(output):
    return frequency_penalty(output.pre_activations, rho=0.2, dim=-2)


DATA = sparse_mixture(200, test_rows=50, seed=0)
GROUPS = {"none": (start, None), "penalty": (start, penalty)}


@pytest.mark.parametrize("alone", [True, False])
def test_each_model_is_trained_as_it_would_be_by_itself(alone):
    found = trained(GROUPS, DATA, seeds=(3, 5), steps=20, alone=alone, lr=1e-2)
    for name, (_, cost) in GROUPS.items():
        for place, seed in enumerate((3, 5)):
            model = start(seed=seed)
            history = train(model, DATA.train, cost, steps=20, seed=seed, lr=1e-2)
            torch.testing.assert_close(found[name].error[place], history.error)
            torch.testing.assert_close(found[name].penalty[place], history.penalty)
            ours = found[name].models[place]
            torch.testing.assert_close(ours(DATA.test), model(DATA.test), rtol=1e-3, atol=1e-4)


def test_groups_are_measured_before_and_after():
    found = trained(GROUPS, DATA, seeds=range(2), steps=30, lr=1e-2)
    assert torch.equal(found["none"].before, found["penalty"].before)
    assert not torch.equal(found["none"].frequency, found["none"].before)
    [fvu] = {tuple(group.fvu.shape) for group in found.values()}
    assert fvu == (2,)
    assert len({id(model) for group in found.values() for model in group.models}) == 4


def test_each_group_has_a_penalty_of_its_own_and_a_shared_one_is_called_once():
    out = Output(*(torch.rand(5, 7, width) for width in (20, 4, 4)))
    shared = side_by_side([penalty, penalty], [2, 3])
    assert shared is penalty
    assert side_by_side([None, None], [2, 3]) is None
    both = side_by_side([None, penalty], [2, 3])(out)
    assert both[:2].tolist() == [0, 0]
    torch.testing.assert_close(both[2:], penalty(out)[2:])
