import pytest
import torch

from saetools import FrequencyThreshold, JumpReLU, step_frequency
from saetools.tutorial import rivals
from saetools.tutorial.comparison import measured, tasks
from saetools.tutorial.rivals import Excess, HardConcrete, OverThreshold

DAYS = tasks()["days"]
SMALL = DAYS._replace(train=DAYS.train[::9], test=DAYS.test[::9], final=None)
STEPS = 7
SEEDS = (3, 8)


def test_jump_relus_penalty_moves_thresholds_and_units():
    activation = JumpReLU(4, threshold=0.05, bandwidth=0.3)
    model, x = OverThreshold(seed=0, activation=activation), torch.rand(200, 20)
    out, z = model(x), model.encode(x)
    assert torch.equal(out.latents, z.where(out.pre_activations > 0, 0))
    step_frequency(out.pre_activations, 0.3).sum().backward()
    near = ((z - 0.05).abs() < 0.15).float().mean(0) / 0.3  # the rectangle's height is 1 / 0.3
    assert torch.allclose(activation.log_threshold.grad, -near * 0.05, atol=1e-5)
    assert torch.allclose(model.code.bias.grad, near, atol=1e-4)


def test_a_hard_gate_is_open_above_0_and_random_while_training():
    model, x = HardConcrete(seed=0), torch.rand(200, 20)
    [first, second] = (model(x).latents for _ in range(2))
    assert not torch.equal(first, second)
    quiet = model.eval()(x)
    assert torch.equal(quiet.latents > 0, quiet.pre_activations > 0)
    assert torch.equal(quiet.latents, model(x).latents)


def test_hard_gates_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    rivals.hard_concrete(SMALL, SEEDS, steps=STEPS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("passes", ["z", "excess"])
def test_a_tracked_threshold_moves_against_the_miss_and_ends_exact(passes):
    kind = {"z": FrequencyThreshold, "excess": Excess}[passes]
    model, x = OverThreshold(seed=0, activation=kind(4, 0.2)), torch.rand(200, 20)
    model.activation.theta.fill_(100.0)
    model(x)
    assert (model.activation.theta < 100).all()  # never on: down
    after = model.activation.theta.clone()
    model.eval()(x)
    assert torch.equal(model.activation.theta, after)
    trained = rivals.tracked_threshold(SMALL, SEEDS, passes=passes, steps=STEPS)
    for row in measured(SMALL, trained):
        assert row["worst"] <= 1 / len(SMALL.train)
    out, z = trained[0](SMALL.train), trained[0].encode(SMALL.train)
    value = z - trained[0].activation.theta if passes == "excess" else z
    assert torch.equal(out.latents, value.where(out.pre_activations > 0, 0))


@pytest.mark.parametrize("hold", [False, True])
def test_hard_gates_may_be_held(hold):
    rows = measured(SMALL, rivals.hard_concrete(SMALL, SEEDS, hold=hold, steps=70))
    assert all((row["worst"] <= 1 / len(SMALL.train)) == hold for row in rows)
