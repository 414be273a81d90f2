import pytest
import torch
from torch import nn

from saetools import restart_rows_, revive_

DEAD = torch.tensor([False, True, False, True, False])


def rows():
    return torch.randn(200, 6, generator=torch.Generator().manual_seed(1))


def stepped(optimizer_of):
    """A layer after three steps, with units 1 and 3 dead, and its optimizer."""
    layer = nn.Linear(6, 5)
    layer.bias.data[DEAD] = -100
    optimizer = optimizer_of(layer.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        layer(rows()).square().mean().backward()
        optimizer.step()
    return layer, optimizer


OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_revived_units_are_at_rho_and_nothing_else_has_changed(name):
    layer, optimizer = stepped(OPTIMIZERS[name])
    state = [
        (parameter, key, value.clone())
        for parameter in (layer.weight, layer.bias)
        for key, value in optimizer.state[parameter].items()
    ]
    before = [parameter.detach().clone() for parameter in (layer.weight, layer.bias)]
    assert revive_(layer, DEAD, rows(), rho=0.2, optimizer=optimizer) is layer
    z = layer(rows())
    assert (z > 0).float().mean(0)[DEAD].tolist() == pytest.approx([0.2, 0.2])
    assert z.std(0)[DEAD].tolist() == pytest.approx([1, 1], rel=1e-4)
    for old, new in zip(before, (layer.weight, layer.bias), strict=True):
        assert torch.equal(old[~DEAD], new[~DEAD])
        assert (old[DEAD] != new[DEAD]).all()
    assert any(old.shape == parameter.shape for parameter, _, old in state)
    for parameter, key, old in state:
        new = optimizer.state[parameter][key]
        if old.shape == parameter.shape:
            assert (new[DEAD] == 0).all()
            assert torch.equal(new[~DEAD], old[~DEAD])
        else:
            assert torch.equal(new, old)


def test_the_next_step_moves_the_others_as_if_nothing_had_been_revived():
    ends = []
    for revive in (False, True):
        torch.manual_seed(3)
        layer, optimizer = stepped(OPTIMIZERS["Adam"])
        if revive:
            revive_(layer, DEAD, rows(), rho=0.2, optimizer=optimizer)
        at = layer.weight.detach().clone()
        optimizer.zero_grad()
        layer(rows()).square().mean().backward()
        optimizer.step()
        ends.append(layer.weight[~DEAD])
    assert torch.equal(*ends)
    assert (layer.weight - at)[DEAD].abs().max() < 3.5e-3  # up to 3 learning rates, as it says


def test_without_the_optimizer_an_old_momentum_drags_the_new_row():
    layer, optimizer = stepped(OPTIMIZERS["Adam"])
    revive_(layer, DEAD, rows(), rho=0.2)
    assert (optimizer.state[layer.weight]["exp_avg"][DEAD] != 0).all()


def test_no_unit_or_one_that_cannot_be_revived_leaves_the_layer_alone():
    layer, _ = stepped(OPTIMIZERS["Adam"])
    before = layer.weight.detach().clone()
    revive_(layer, torch.zeros(5, dtype=torch.bool), rows(), rho=0.2)
    with pytest.raises(ValueError, match="does not vary"):
        revive_(layer, DEAD, torch.ones(50, 6), rho=0.2)
    with pytest.raises(ValueError, match="rho"):
        revive_(layer, DEAD, rows()[:3], rho=0.9)
    assert torch.equal(layer.weight, before)


def test_a_seed_decides_which_rows_are_drawn():
    first, again, other = (
        revive_(nn.Linear(6, 5), DEAD, rows(), rho=0.2, generator=torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    )
    assert torch.equal(first.weight[DEAD], again.weight[DEAD])
    assert not torch.equal(first.weight[DEAD], other.weight[DEAD])


def test_codes_of_an_ensemble_are_restarted_by_a_mask():
    codebooks = nn.Parameter(torch.zeros(2, 3, 4))
    dead = torch.tensor([[True, False, False], [False, True, True]])
    values = torch.arange(12.0).reshape(3, 4)
    assert restart_rows_(codebooks, dead, values) is codebooks
    assert torch.equal(codebooks[dead], values)
    assert (codebooks[~dead] == 0).all()


@pytest.mark.parametrize(
    ("units", "values", "says"),
    [
        (torch.tensor([1, 3]), torch.ones(2, 6), "rows must be bools over the first dims"),
        (torch.ones(4).bool(), torch.ones(4, 6), "rows must be bools over the first dims"),
        (DEAD, torch.ones(3, 6), r"values must have the shape \(2, 6\), got \(3, 6\)"),
        (DEAD, torch.full((2, 6), torch.nan), "values must be finite"),
    ],
)
def test_bad_rows_are_named(units, values, says):
    with pytest.raises(ValueError, match=says):
        restart_rows_(nn.Linear(6, 5).weight, units, values)


def test_bad_layers_and_units_are_named():
    with pytest.raises(TypeError, match=r"layer must be an nn\.Linear with a bias"):
        revive_(nn.Linear(6, 5, bias=False), DEAD, rows(), rho=0.2)
    with pytest.raises(ValueError, match=r"units must be bools of shape \(5,\)"):
        revive_(nn.Linear(6, 5), DEAD[:4], rows(), rho=0.2)
