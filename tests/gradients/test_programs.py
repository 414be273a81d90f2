"""Each fault is named on its line, with no line beside it; no healthy program is accused."""

from itertools import pairwise

import pytest
import torch
from cases import (
    own_faults,
    own_faults_2,
    own_faults_3,
    own_faults_4,
    own_healthy,
    own_healthy_2,
    own_healthy_3,
    own_healthy_4,
    own_healthy_5,
    public_faults,
    public_healthy,
)
from programs import run
from torch import nn

from saetools.gradients import trace_gradients

OUR_FAULTS = own_faults.CASES | own_faults_2.CASES | own_faults_3.CASES | own_faults_4.CASES
FAULTS = public_faults.CASES | OUR_FAULTS
OUR_HEALTHY = (
    own_healthy.CASES
    | own_healthy_2.CASES
    | own_healthy_3.CASES
    | own_healthy_4.CASES
    | own_healthy_5.CASES
)
HEALTHY = public_healthy.CASES | OUR_HEALTHY


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_on_its_line_and_no_other_line_is(name, tmp_path):
    outcome = run(FAULTS[name], tmp_path / "program.py")
    assert outcome.must
    assert outcome.error is None
    assert outcome.is_named(), str(outcome.trace)
    assert "itself failed" not in str(outcome.trace)
    for finding in outcome.trace.findings:
        assert finding.reason
        assert finding.advice
        assert 0 < finding.share <= 1


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_program_is_not_accused_and_no_bit_of_it_changes(name, tmp_path):
    traced = run(HEALTHY[name], tmp_path / "program.py")
    plain = run(HEALTHY[name], tmp_path / "program.py", traced=False)
    assert traced.error is None
    assert traced.trace.findings == [], str(traced.trace)
    assert "itself failed" not in str(traced.trace)
    assert len(plain.check) == len(traced.check) > 0
    for a, b in zip(plain.check, traced.check, strict=True):
        assert torch.equal(a.nan_to_num(9e9), b.nan_to_num(9e9))


@pytest.mark.parametrize("draw", [torch.randn, torch.rand])
@pytest.mark.parametrize("widths", [(20, 64, 64, 5), (20, 40, 40, 40, 40, 20), (784, 256, 10)])
@pytest.mark.parametrize("batch", [32, 256])
def test_ordinary_relu_networks_at_their_default_initialisation_are_not_accused(
    draw, widths, batch
):
    for seed in range(20):
        torch.manual_seed(seed)
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        model = nn.Sequential(*layers[:-1])
        with trace_gradients(model) as trace:
            model(draw(batch, widths[0])).square().mean().backward()
        assert trace.findings == [], str(trace)
