"""The same on an accelerator as on the CPU. Skipped where there is none."""

import os

import pytest
import torch
import torch.distributed as dist
from torch import nn

from saetools import (
    Capture,
    FrequencyMeter,
    FrequencyMultipliers,
    SparseAutoencoder,
    activation_frequency,
    backward_in_parts,
    chicago_context,
    evaluate,
    frequency_penalty,
    over_ranks,
    target_frequency_,
    train,
    train_at_frequency,
    train_ensemble,
)
from saetools.gradients import trace_gradients

DEVICE = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else None
pytestmark = pytest.mark.skipif(DEVICE is None, reason="no accelerator here")
X = torch.rand(200, 20, generator=torch.Generator().manual_seed(0))


def penalty(output):
    return frequency_penalty(output.pre_activations, rho=0.2, dim=-2)


def models(device=None, count=3):
    return [SparseAutoencoder(seed=seed, device=device) for seed in range(count)]


def weights(model):
    return torch.cat([weight.detach().cpu().flatten() for weight in model.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(128, 4), (3, 64, 5), (2048, 4096)])
def test_the_penalty_and_its_slope_are_those_of_the_cpu(dtype, shape):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    results = []
    for device in ("cpu", DEVICE):
        here = z.detach().to(device, copy=True).requires_grad_()
        cost = frequency_penalty(here, rho=0.05)
        cost.backward()
        results.append((cost.detach().cpu(), here.grad.cpu()))
        assert here.grad.dtype == dtype
        assert torch.equal(activation_frequency(here).cpu(), activation_frequency(z))
    (cost, slope), (other_cost, other_slope) = results
    torch.testing.assert_close(other_cost, cost, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        other_slope, slope, rtol=1e-2 if dtype != torch.float32 else 1e-4, atol=1e-9
    )


def test_training_alone_and_stacked_is_that_of_the_cpu():
    curves = {}
    for device in (None, DEVICE):
        x = X if device is None else X.to(device)
        alone = models(device, 1)[0]
        history = train(alone, x, penalty, steps=30)
        stacked = train_ensemble(models(device), x, penalty, steps=30)
        curves[device] = history.error, stacked.error
    for here, there in zip(curves[None], curves[DEVICE], strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-5)


def test_the_recipe_reaches_the_frequency_and_goes_on_from_a_checkpoint(tmp_path):
    x = chicago_context(device=DEVICE).train[::4]

    class StoppedError(Exception):
        pass

    def run(path, stop_at=None):
        calls = []

        def observe(ensemble):
            calls.append(ensemble)
            if len(calls) == stop_at:
                raise StoppedError

        members = models(DEVICE, 2)
        options = {"steps": 70, "checkpoint": path, "checkpoint_every": 7, "observe_every": 5}
        train_at_frequency(members, x, rho=0.2, observe=observe, **options)
        return members

    with pytest.raises(StoppedError):
        run(tmp_path / "a", 9)
    again, through = run(tmp_path / "a"), run(None)
    for one, other in zip(again, through, strict=True):
        assert torch.equal(weights(one), weights(other))
        assert (evaluate(one, x).frequency - 0.2).abs().max() < 0.002


def test_multipliers_go_on(tmp_path):
    def run(path, steps_before=None):
        model, constraint = models(DEVICE, 1)[0], FrequencyMultipliers(rho=0.2)

        def scheduler(adam):
            return torch.optim.lr_scheduler.StepLR(adam, 5)

        calls = []

        def observe(_):
            calls.append(1)
            if len(calls) == steps_before:
                raise KeyboardInterrupt
            return torch.ones(2, device=DEVICE)

        options = {"steps": 12, "scheduler": scheduler, "observe": observe, "observe_every": 1}
        train(model, X.to(DEVICE), constraint, checkpoint=path, checkpoint_every=2, **options)
        return weights(model), constraint.multipliers

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", 8)
    for again, through in zip(run(tmp_path / "a"), run(None), strict=True):
        assert torch.equal(again, through)


def test_capture_parts_and_the_meter():
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 20)).to(DEVICE)
    x, meter = X.to(DEVICE), FrequencyMeter()
    with Capture(model, "0") as captured:

        def loss(part, batch_mean):
            error = batch_mean((model(part) - part).square().mean(), len(part))
            return error + frequency_penalty(captured["0"], rho=0.2, batch_mean=batch_mean)

        parts = backward_in_parts(model, x.split(64), loss)
        cut = [weight.grad.clone() for weight in model.parameters()]
        model.zero_grad()
        whole = (model(x) - x).square().mean() + frequency_penalty(captured["0"], rho=0.2)
        whole.backward()
        with torch.no_grad():
            target_frequency_(model[0].bias, captured["0"], 0.2)
            model(x)
        meter.update(captured["0"])
    torch.testing.assert_close(parts, whole.detach())
    for one, parameter in zip(cut, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-6)
    assert (meter.compute() - 0.2).abs().max() < 1e-6


def test_the_cut_is_found():
    model = SparseAutoencoder(seed=0, device=DEVICE)
    with trace_gradients(model) as trace:
        output = model(X.to(DEVICE))
        count = (output.latents > 0).float().mean(0)
        ((output.reconstruction - X.to(DEVICE)).square().mean() + count.sum()).backward()
    assert any(finding.op == "Tensor.gt" for finding in trace.findings)


@pytest.mark.skipif(DEVICE != "cuda", reason="nccl is for CUDA")
def test_a_process_group_of_nccl(monkeypatch):
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29531")):
        monkeypatch.setitem(os.environ, name, value)
    dist.init_process_group("nccl", rank=0, world_size=1)
    try:
        z = torch.randn(64, 4, device=DEVICE)
        alone = frequency_penalty(z, rho=0.2)
        torch.testing.assert_close(frequency_penalty(z, rho=0.2, batch_mean=over_ranks), alone)
        meter = FrequencyMeter()
        meter.update(z)
        assert torch.equal(meter.over_ranks().compute(), meter.compute())
    finally:
        dist.destroy_process_group()


def test_the_compiled_step_trains_alike():
    if DEVICE != "cuda":
        pytest.skip("torch.compile is for CUDA here")
    plain = train_ensemble(models(DEVICE), X.to(DEVICE), penalty, steps=10)
    compiled = train_ensemble(models(DEVICE), X.to(DEVICE), penalty, steps=10, compile=True)
    torch.testing.assert_close(compiled.error, plain.error, rtol=1e-3, atol=1e-5)
