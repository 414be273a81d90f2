"""Processes on this machine (gloo) against training in one piece, and over_ranks without any."""

import os
import re
import runpy
import subprocess
import sys
import textwrap

import pytest
import torch
from notebook_tools import ROOT
from parallel_training import (
    Case,
    cases,
    in_one_piece,
    meter_rows,
    multiplied,
    naive_cases,
    run,
    running_steps,
    three_batches,
)

from saetools import activation_frequency, frequency_penalty, over_ranks
from saetools.penalties import unbiased_eps

BOUND = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(4, marks=pytest.mark.nightly),
    ],
)
def processes(request, tmp_path_factory):
    """(number of processes, [(cases, other facts) of each])."""
    return request.param, run(request.param, tmp_path_factory.mktemp("processes"))


def furthest(found, expected):
    return max((one - other).abs().max().item() for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", cases(2))
def test_losses_gradients_and_parameters_are_those_of_one_process(processes, name):
    ranks, results = processes
    case = cases(ranks)[name]
    expected = in_one_piece(case)
    assert 0.1 < furthest([0 * tensor for tensor in expected], expected) < 10  # of order 1
    for found, _ in results:
        assert furthest(found[name], expected) <= BOUND[case.dtype]
        # Not one bit apart, or the processes would drift.
        assert furthest(found[name], results[0][0][name]) == 0


@pytest.mark.parametrize("name", naive_cases(2))
def test_a_penalty_for_each_part_is_another_one(processes, name):
    ranks, results = processes
    found, expected = results[0][0][name], in_one_piece(naive_cases(ranks)[name])
    assert furthest(found, expected) > 1e-2


def test_two_processes_under_fsdp_agree_as_well(processes):
    ranks, results = processes
    if ranks > 2:
        return
    parameters = results[0][1]["FSDP"]
    if parameters is None:
        pytest.skip("this torch has no fully_shard")
    expected = in_one_piece(Case((29, 12), None))[-len(parameters) :]
    assert furthest(parameters, expected) <= 1e-12


def test_meters_add_up_exactly(processes):
    ranks, results = processes
    rows = torch.cat([meter_rows(rank) for rank in range(ranks)])
    for rank, (_, facts) in enumerate(results):
        active, count, own = facts["meter"]
        assert active.dtype == torch.int64
        assert torch.equal(active, (rows > 0).sum(0))
        assert count == len(rows)
        assert own == len(meter_rows(rank))  # the meter itself is as it was
        assert "group must keep the units of the first update, (3,), got (4,)" in facts["strangers"]


def test_a_running_frequency_runs_over_all_processes(processes):
    ranks, results = processes
    rho_hat, rows = running_steps(ranks)
    ages = torch.arange(2, -1, -1)[:, None]
    for step in range(3):
        seen = slice(0, step + 1)
        weights = rows[seen] * 0.9 ** (ages[-1 - step :])
        expected = (weights[..., None] * rho_hat[seen]).sum((0, 1)) / weights.sum()
        for rank, (_, facts) in enumerate(results):
            values, slopes = facts["running"]
            torch.testing.assert_close(values[step], expected)
            share = ranks * rows[step, rank] / rows[step].sum()
            torch.testing.assert_close(slopes[step], share.double().expand(2))


def test_multipliers_are_the_same_on_all_processes_and_those_of_one(processes):
    ranks, results = processes
    shards = cases(ranks)["uneven"].shards
    batches = three_batches(shards)
    costs, slopes, multipliers = multiplied(batches)
    slopes = slopes.reshape(batches.shape).split(shards, dim=1)
    for rank, (_, facts) in enumerate(results):
        own_costs, own_slopes, own_multipliers = facts["multipliers"]
        torch.testing.assert_close(own_costs, costs)
        torch.testing.assert_close(own_slopes, ranks * slopes[rank].flatten(0, 1))
        torch.testing.assert_close(own_multipliers, multipliers)
        assert torch.equal(own_multipliers, results[0][1]["multipliers"][2])


def test_gradients_are_exchanged_once_a_step_and_buffers_updated_once_a_part(processes):
    _, results = processes
    assert [facts["exchanges"] for _, facts in results] == [2] * len(results)
    batches = [facts["BatchNorm's batches"] for _, facts in results]
    assert batches == [2 * (rank + 1) for rank in range(len(results))]


def test_edges(processes):
    ranks, results = processes
    for rank, (_, facts) in enumerate(results):
        assert facts["no rows at all"].tolist() == [0, 0]
        assert facts["half"].dtype == torch.float32
        assert facts["half"].item() == (ranks - 1) / 2
        if rank < 2:
            assert facts["pair"].item() == pytest.approx(2 / 3)
        else:
            assert facts["pair"] == "group must hold this process, got one that does not"


def test_one_process_has_the_whole_batch():
    z = torch.randn(7, 3, requires_grad=True)
    both = [
        frequency_penalty(z, rho=0.2, batch_mean=batch_mean) for batch_mean in (None, over_ranks)
    ]
    torch.testing.assert_close(*both)
    torch.testing.assert_close(*(torch.autograd.grad(cost, z)[0] for cost in both))
    mean = torch.rand(3)
    assert over_ranks(mean, 7) is mean


@pytest.mark.parametrize(
    ("shape", "dim", "rows"),
    [((7, 3), None, 7), ((5, 7, 3), None, 35), ((5, 7, 3), -2, 7), ((5, 7, 3), (0, 1), 35)],
)
def test_the_penalty_hands_over_its_frequency_and_rows(shape, dim, rows):
    z, seen = torch.randn(shape), []

    def batch_mean(rho_hat, count):
        seen.append(count)
        over = (0, 1)[: len(shape) - 1] if dim is None else dim
        assert torch.equal(rho_hat, activation_frequency(z, dim=over))
        return torch.full_like(rho_hat, 0.2)

    at_target = frequency_penalty(z, rho=0.2, dim=dim, batch_mean=batch_mean, eps=1e-9)
    assert at_target.abs().max() < 1e-6
    assert seen == [rows]


def test_the_default_eps_is_that_of_the_rows_of_the_whole_batch_where_they_are_told():
    z = torch.randn(7, 3)

    def of_many(rho_hat, _):
        rho_hat.rows = torch.tensor(1000.0)
        return rho_hat

    alone = frequency_penalty(z, rho=0.2, batch_mean=lambda rho_hat, _: rho_hat)
    torch.testing.assert_close(alone, frequency_penalty(z, rho=0.2))
    told = frequency_penalty(z, rho=0.2, batch_mean=of_many)
    torch.testing.assert_close(told, frequency_penalty(z, rho=0.2, eps=unbiased_eps(0.2, 1000)))


def test_a_part_without_rows_has_no_say_but_stays_joined_to_the_model():
    z = torch.empty(0, 3, requires_grad=True)
    with pytest.raises(ValueError, match="pre_activations must not be empty"):
        frequency_penalty(z, rho=0.2)
    cost = frequency_penalty(z, rho=0.2, batch_mean=over_ranks)
    cost.backward()
    assert cost.isfinite()
    assert z.grad.shape == (0, 3)
    error = over_ranks(z.mean(), 0)  # the mean of nothing is NaN
    assert error == 0
    assert error.requires_grad


@pytest.mark.parametrize(
    ("mean", "rows", "error", "message"),
    [
        (0.5, 3, TypeError, "mean must be a torch.Tensor, got float"),
        (torch.tensor([1]), 3, TypeError, "mean must have a floating dtype"),
        (torch.empty(0), 3, ValueError, "mean must not be empty"),
        (torch.tensor([0.5]), -1, ValueError, "rows must be at least 0, got -1"),
        (torch.tensor([0.5]), 2.0, TypeError, "rows must be an int, got 2.0"),
    ],
)
def test_bad_arguments_are_named(mean, rows, error, message):
    with pytest.raises(error, match=message):
        over_ranks(mean, rows)


PAGE = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
SCRIPT = (ROOT / "docs" / "train_ddp.py").read_text(encoding="utf-8")


def test_the_pages_code_runs_and_its_loop_and_links_are_real():
    scope = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, scope)
    assert scope["cost"].isfinite()
    assert not scope["cost"].requires_grad
    assert scope["meter"].rows == 512
    assert scope["penalty"].isfinite()
    [loop] = re.findall(r"```\n(error = .*?)```", PAGE, re.DOTALL)
    words = loop.replace("rho=0.2", "rho=RHO").splitlines()
    assert textwrap.indent("\n".join(words), 12 * " ") in SCRIPT
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def fires_as_asked(printed, processes):
    head, _, shares = printed.partition("frequencies ")
    assert head == f"{processes} processes, 4558 rows, "
    assert [float(share) for share in shares.split()] == pytest.approx([0.2] * 4, abs=0.06)


@pytest.mark.slow
def test_on_one_process_the_scripts_units_fire_as_asked(capsys):
    runpy.run_path(str(ROOT / "docs" / "train_ddp.py"))["main"](4)
    fires_as_asked(capsys.readouterr().out, 1)


@pytest.mark.nightly  # every run starts torchrun once, for docs/recipes.md
def test_torchrun_starts_the_script_and_units_fire_as_asked():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(ROOT / "docs" / "train_ddp.py"), "4"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    fires_as_asked(done.stdout, 2)
