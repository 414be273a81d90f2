import copy

import pytest
import torch

from saetools import FrequencyThreshold, SparseAutoencoder, evaluate, frequency_law
from saetools.activations.state import PerLatent


def frequency(latents):
    return latents.ne(0).float().mean(-2)


def rows(count, latents=5, *, scale=2.0, shift=-1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, latents, generator=generator) + shift


def started(latents=5, rho=0.1, **options):
    return FrequencyThreshold(latents, rho, **{"rate": 0.05, **options}).start(
        rows(4000, latents, seed=9)
    )


def test_passes_z_itself_above_theta_and_its_gradient():
    threshold, z = started(), rows(100).requires_grad_()
    threshold.eval()
    latents, over = threshold(z), z > threshold.theta
    assert 0 < over.sum() < over.numel()
    assert torch.equal(latents, z.where(over, 0))
    latents.sum().backward()
    assert torch.equal(z.grad, over.float())


def test_nan_and_infinity_stay_to_be_seen():
    threshold = started().eval()
    z = torch.tensor([torch.nan, torch.inf, 0.0, 0.0, 0.0])
    assert threshold(z[None])[0, 0].isnan()
    assert threshold(z[None])[0, 1] == torch.inf


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_not_finite_does_not_spoil_a_threshold(bad):
    threshold, z = started(), rows(50)
    before = threshold.theta.clone()
    z[3, 1] = bad
    threshold(z)
    assert threshold.theta.isfinite().all()
    assert threshold.theta[1] == before[1]
    assert (threshold.theta != before).sum() == 4
    assert threshold.spread.isfinite().all()


def test_a_batch_moves_each_threshold_by_rate_times_spread_times_relative_miss():
    threshold = started(rho=torch.tensor([0.02, 0.05, 0.1, 0.2, 0.5]), rate=0.3)
    z = rows(60, shift=-0.5, seed=1)
    theta, spread = threshold.theta.clone(), threshold.spread.clone()
    share = (z > theta).float().mean(0)
    spread += 0.05 * (z.std(0, correction=0) - spread)
    expected = theta + 0.3 * spread * (share / threshold.rho - 1).clamp(max=5)
    latents = threshold(z)
    assert torch.allclose(threshold.theta, expected, atol=1e-5)
    assert (threshold.theta - theta).abs().min() > 1e-3
    assert torch.equal(latents, z.where(z > threshold.theta, 0))  # by the thresholds after the move


@pytest.mark.parametrize("rho", [0.3, 0.02])
def test_thresholds_find_the_frequency_without_a_start(rho):
    threshold = FrequencyThreshold(40, rho, rate=0.05)
    for step in range(300):
        threshold(rows(512, 40, scale=30.0, shift=-200.0, seed=step))
    threshold.eval()
    found = frequency(threshold(rows(20000, 40, scale=30.0, shift=-200.0, seed=999)))
    assert (found / rho - 1).abs().max() < 0.6
    assert abs(found.mean() / rho - 1) < 0.03


def test_the_first_batch_stands_in_for_a_start():
    threshold = FrequencyThreshold(40, 0.1)
    found = frequency(threshold(rows(2000, 40)))
    assert abs(found.mean() - 0.1) < 0.03
    assert found.min() > 0.02
    assert found.max() < 0.3


def test_sequences_are_rows():
    one, other, z = started(), started(), rows(60)
    assert torch.equal(one(z).view(4, 15, 5), other(z.view(4, 15, 5)))
    assert torch.equal(one.theta, other.theta)


def test_thresholds_stand_still_in_evaluation_mode_and_in_evaluate():
    threshold = started()
    model = SparseAutoencoder((20, 5), seed=0, activation=threshold)
    x, before = torch.rand(100, 20), copy.deepcopy(threshold.state_dict())
    result = evaluate(model, x)
    with torch.no_grad():
        model.eval()(x)
    assert all(torch.equal(a, before[name]) for name, a in threshold.state_dict().items())
    assert torch.equal(result.frequency, (model.encode(x) > threshold.theta).float().mean(0))
    model.train()(x)
    assert not torch.equal(threshold.theta, before["theta"])


def test_evaluate_counts_latents_below_0():
    threshold = FrequencyThreshold(5, 0.5)
    model = SparseAutoencoder((20, 5), seed=0, activation=threshold)
    with torch.no_grad():
        model.code.bias.fill_(-10.0)
    x = torch.rand(100, 20)
    threshold.start(model.encode(x))
    assert (threshold.theta < 0).all()
    assert torch.allclose(evaluate(model, x).frequency, torch.tensor(0.5))


def test_without_rows_evaluation_raises():
    with pytest.raises(RuntimeError, match="must have seen rows: train it, or call start"):
        FrequencyThreshold(5, 0.1).eval()(rows(10))


@pytest.mark.parametrize("kept", [slice(0, 40), slice(5, None, 2)])
def test_rows_that_a_mask_leaves_out_count_for_nothing(kept):
    one, other, z = started(), started(), rows(100)
    mask = torch.zeros(100, dtype=torch.bool)
    mask[kept] = True
    padded = z.clone()
    padded[~mask] = torch.nan
    latents, expected = one(padded, mask), other(z[kept])
    assert torch.allclose(one.theta, other.theta, atol=1e-6)
    assert torch.allclose(one.spread, other.spread, atol=1e-6)
    assert torch.allclose(latents[mask], expected)
    assert not torch.equal(one.theta, started().theta)


def test_a_mask_of_sequences_may_be_broadcast():
    one, other, z = started(), started(), rows(60).view(4, 15, 5)
    one(z, torch.arange(15) < 7)
    other(z[:, :7])
    assert torch.allclose(one.theta, other.theta, atol=1e-6)


@pytest.mark.parametrize("z", [rows(8), rows(0)])
def test_padding_alone_and_no_rows_move_nothing(z):
    threshold, before = started(), started().state_dict()
    threshold(z, torch.zeros(len(z), dtype=torch.bool))
    if len(z) == 0:
        assert threshold(z).shape == (0, 5)
    assert all(torch.equal(a, before[name]) for name, a in threshold.state_dict().items())


def test_an_ensemble_is_its_members():
    rho = torch.tensor([[0.05], [0.1], [0.3]])
    ensemble = FrequencyThreshold(5, rho)
    assert ensemble.theta.shape == (3, 5)
    members = [FrequencyThreshold(5, float(each)) for each in rho]
    first = torch.stack([rows(300, seed=seed) for seed in range(3)])
    ensemble.start(first)
    for seed in range(3):
        members[seed].start(first[seed])
    for step in range(5):
        z = torch.stack([rows(50, seed=10 * step + member) for member in range(3)])
        latents = ensemble(z.view(3, 5, 10, 5)).view(3, 50, 5)
        for member, own, part in zip(members, latents, z, strict=True):
            assert torch.allclose(member(part), own)
    assert torch.allclose(ensemble.theta, torch.stack([m.theta for m in members]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_state_stays_in_float32_when_the_model_is_cast(dtype):
    threshold = started(rho=0.01, rate=1e-4)
    exact = threshold.theta.clone()
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), threshold).to(dtype)
    assert torch.equal(threshold.theta, exact)  # not rounded on the way
    assert {buffer.dtype for buffer in threshold.buffers()} == {torch.float32}
    assert model(torch.randn(64, 4, dtype=dtype)).dtype == dtype
    assert (threshold.theta - exact).abs().max() < 1e-2 * threshold.spread.max()
    assert (threshold.theta != exact).any()
    assert threshold.double().theta.dtype == torch.float64


def test_counts_in_bfloat16_are_exact():
    threshold, z = started(3, 0.1), torch.full((1000, 3), -100.0, dtype=torch.bfloat16)
    z[:301] = 100.0  # a sum in bfloat16 stops at 256
    before = threshold.theta.clone()
    threshold(z)
    expected = 0.05 * threshold.spread * (0.301 / 0.1 - 1)
    assert torch.allclose(threshold.theta - before, expected, rtol=1e-4)


def test_saved_loaded_copied_and_moved():
    threshold = started(rho=frequency_law(5, 0.1, floor=0.01), band=3.0)
    threshold(rows(64))
    threshold.adopt(rows(500))
    fresh = FrequencyThreshold(5, 0.1, band=3.0, rate=0.05)
    fresh.load_state_dict(threshold.state_dict())
    twin = copy.deepcopy(threshold)
    for other in (fresh, twin):
        assert torch.equal(other(rows(64, seed=3)), copy.deepcopy(threshold)(rows(64, seed=3)))
    assert not torch.equal(twin.theta, threshold.theta)  # its own
    assert threshold.to("meta").theta.is_meta


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"latents": 0}, ValueError, "latents must be at least 1, got 0"),
        ({"latents": 2.0}, TypeError, "latents must be an int"),
        ({"rho": 1.0}, ValueError, "rho must lie strictly between 0 and 1"),
        ({"rho": torch.full((4,), 0.1)}, ValueError, "rho must broadcast against the units"),
        ({"rho": torch.full((2, 2, 5), 0.1)}, ValueError, r"rho must be one number, \(L,\) or"),
        ({"band": 0.5}, ValueError, "band must be finite and at least 1, got 0.5"),
        ({"band": (5.0,)}, ValueError, "band must be a number or two of them"),
        ({"rate": 0}, ValueError, "rate must be finite and greater than 0, got 0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        FrequencyThreshold(**{"latents": 5, "rho": 0.1, **arguments})


@pytest.mark.parametrize("shape", [(10, 4), (5,), (3, 10, 6)])
def test_pre_activations_of_other_latents(shape):
    with pytest.raises(ValueError, match=r"pre_activations must have 5 latents, its last dim"):
        started()(torch.randn(shape))
    ensemble = FrequencyThreshold(5, torch.full((2, 5), 0.1))
    with pytest.raises(ValueError, match=r"and 2 members, its first, got shape"):
        ensemble(torch.randn(3, 10, 5))


def test_every_buffer_of_the_room_survives_a_cast_that_is_not_one():
    class Other(PerLatent):
        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.arange(3))
            self.register_buffer("none", None)

    assert Other().half().places.dtype == torch.int64
