import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saetools import RunningFrequency, frequency_penalty


@given(
    decay=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    rows=st.lists(st.integers(0, 20), min_size=1, max_size=8).filter(lambda rows: rows[0] > 0),
)
def test_a_row_weighs_by_its_age_and_the_weights_add_up_to_1(decay, rows):
    generator = torch.Generator().manual_seed(0)
    running = RunningFrequency(decay=decay)
    batches = torch.rand(len(rows), 3, generator=generator, dtype=torch.float64)
    for step in range(len(rows)):
        got = running(batches[step], rows[step])
        weights = torch.tensor(
            [decay ** (step - k) * rows[k] for k in range(step + 1)], dtype=torch.float64
        )
        if weights.sum() > 0:
            expected = (weights[:, None] * batches[: step + 1]).sum(0) / weights.sum()
            torch.testing.assert_close(got, expected)


def test_equal_batches_give_the_bias_corrected_average_of_adam():
    running, average = RunningFrequency(decay=0.9), torch.zeros(2)
    for step, rho_hat in enumerate(torch.rand(5, 2), start=1):
        average = 0.9 * average + 0.1 * rho_hat
        torch.testing.assert_close(running(rho_hat, 8), average / (1 - 0.9**step))


def test_the_gradient_is_that_of_the_batch_at_the_running_value():
    running = RunningFrequency(decay=0.5)
    running(torch.tensor([0.0]), 10)
    rho_hat = torch.tensor([0.6], requires_grad=True)
    value = running(rho_hat, 10)
    assert value.item() == pytest.approx(0.4)
    value.square().backward()
    assert rho_hat.grad.item() == pytest.approx(2 * 0.4)


def test_without_decay_it_is_the_plain_penalty():
    z = torch.randn(9, 4, requires_grad=True)
    running = RunningFrequency(decay=0)
    frequency_penalty(torch.randn(5, 4), rho=0.2, batch_mean=running)
    both = [frequency_penalty(z, rho=0.2, batch_mean=batch_mean) for batch_mean in (None, running)]
    torch.testing.assert_close(*both)
    torch.testing.assert_close(*(torch.autograd.grad(cost, z)[0] for cost in both))


def test_training_can_be_resumed():
    running, steps = RunningFrequency(decay=0.9), torch.rand(6, 3)
    for rho_hat in steps[:3]:
        running(rho_hat, 7)
    state = running.state_dict()
    resumed = RunningFrequency(decay=0.9)
    resumed.load_state_dict(state)
    for rho_hat in steps[3:]:
        assert torch.equal(running(rho_hat, 7), resumed(rho_hat, 7))
    resumed.load_state_dict(state)  # was not changed by going on
    assert resumed.totals[-1] == pytest.approx(7 * (1 + 0.9 + 0.81))
    fresh = RunningFrequency(decay=0.9)
    resumed.load_state_dict(fresh.state_dict())
    assert resumed.totals is None


@pytest.mark.parametrize(
    ("decay", "error", "message"),
    [
        (1, ValueError, "decay must be less than 1, got 1"),
        (-0.1, ValueError, "decay must be finite and at least 0, got -0.1"),
        (float("nan"), ValueError, "decay must be finite"),
        ("0.9", TypeError, "decay must be a number, got '0.9'"),
    ],
)
def test_a_senseless_decay_is_refused(decay, error, message):
    with pytest.raises(error, match=message):
        RunningFrequency(decay=decay)


def test_other_units_are_refused():
    running = RunningFrequency()
    running(torch.rand(3), 5)
    with pytest.raises(ValueError, match=r"keep the 3 units of the first call, got shape \(4,\)"):
        running(torch.rand(4), 5)


def test_at_rho_small_batches_pull_units_up_and_a_running_frequency_or_the_default_do_not():
    rows = torch.randn(600, 8, 1).double() - 1.0364  # > 0 on 15 % of the rows

    def pull(**settings):
        shift = torch.zeros(1, requires_grad=True, dtype=torch.float64)
        costs = [frequency_penalty(batch + shift, rho=0.15, **settings) for batch in rows]
        return (-torch.autograd.grad(sum(costs[100:]), shift)[0] / 500).item()

    assert pull(eps=1e-3) > 5
    assert abs(pull(eps=1e-3, batch_mean=RunningFrequency(decay=0.9))) < 0.5
    assert abs(pull(batch_mean=RunningFrequency(decay=0.9))) < 0.5
    assert abs(pull()) < 0.5
