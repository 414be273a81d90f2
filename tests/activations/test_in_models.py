"""Activations in the models, the loops and the files of the package."""

import pytest
import torch

from saetools import (
    BatchTopK,
    FrequencyThreshold,
    GroupBiasAdaptation,
    JumpReLU,
    SparseAutoencoder,
    TopK,
    WinnerTakeAll,
    evaluate,
    save,
    train,
    train_at_frequency,
    train_ensemble,
)

X = torch.rand(300, 20, generator=torch.Generator().manual_seed(4))
MAKE = {
    "threshold": lambda: FrequencyThreshold(4, 0.2),
    "band": lambda: FrequencyThreshold(4, 0.2, band=3.0),
    "TopK": lambda: TopK(2),
    "BatchTopK": lambda: BatchTopK(1),
    "JumpReLU": lambda: JumpReLU(4, threshold=0.05, bandwidth=0.3),
    "winner-take-all": lambda: WinnerTakeAll(4, torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "Group Bias Adaptation": lambda: GroupBiasAdaptation(4, 0.2, every=5),
}


def models(make, count=3):
    return [SparseAutoencoder((20, 8, 4), seed=s, activation=make()) for s in range(count)]


def assert_alike(one, other, within):
    for name, value in one.state_dict().items():
        limits = {"rtol": within, "atol": within, "equal_nan": True, "msg": name}
        torch.testing.assert_close(value, other.state_dict()[name], **limits)


@pytest.mark.parametrize("name", MAKE)
def test_an_ensemble_trains_each_as_if_alone(name):
    together, alone = models(MAKE[name]), models(MAKE[name])
    start = {n: value.clone() for n, value in together[1].state_dict().items()}
    train_ensemble(together, X, steps=12, batch_size=64)
    for seed, (own, other) in enumerate(zip(alone, together, strict=True)):
        train(own, X, steps=12, batch_size=64, seed=seed)
        assert_alike(own, other, 1e-4)
    moved = {n for n, value in together[1].state_dict().items() if not torch.equal(value, start[n])}
    state = {n for n in start if n.startswith("activation")}
    fixed = {"activation.rho", "activation.free", "activation.group", "activation.offset"}
    assert state - moved <= fixed
    assert evaluate(together[1], X).frequency.shape == (4,)


def test_members_may_ask_for_different_frequencies():
    members = models(lambda: None, 0)
    for seed, rho in enumerate((0.1, 0.3)):
        activation = FrequencyThreshold(4, rho, rate=0.05)
        members.append(SparseAutoencoder((20, 8, 4), seed=seed, activation=activation))
    train_ensemble(members, X, steps=600, batch_size=100)
    found = [evaluate(member, X).frequency.mean().item() for member in members]
    assert found == pytest.approx([0.1, 0.3], abs=0.05)


@pytest.mark.parametrize("name", ["threshold", "band", "BatchTopK", "Group Bias Adaptation"])
def test_training_goes_on_from_a_checkpoint_to_the_same_bits(name, tmp_path):
    def run(path, stop_at=None):
        [model], calls = models(MAKE[name], 1), []

        def observe(_):
            calls.append(1)
            if len(calls) == stop_at:
                raise KeyboardInterrupt

        options = {"checkpoint": path, "checkpoint_every": 4, "observe_every": 3}
        train(model, X, steps=16, batch_size=64, observe=observe, **options)
        return model

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", 4)
    assert_alike(run(tmp_path / "a"), run(None), 0)


def test_one_activation_for_two_models_is_refused():
    shared = FrequencyThreshold(4, 0.2)
    members = [SparseAutoencoder(seed=seed, activation=shared) for seed in range(2)]
    with pytest.raises(ValueError, match="models must be separate"):
        train_ensemble(members, X, steps=1)


def test_members_differ_in_state_alone():
    members = [
        SparseAutoencoder(seed=seed, activation=FrequencyThreshold(4, 0.2, rate=rate))
        for seed, rate in enumerate((0.05, 0.1))
    ]
    with pytest.raises(ValueError, match=r"activation.rate is 0.05 in models\[0\], 0.1 in"):
        train_ensemble(members, X, steps=1)
    mixed = [SparseAutoencoder(seed=0, activation=TopK(2)), SparseAutoencoder(seed=1)]
    with pytest.raises(ValueError, match="models must be alike"):
        train_ensemble(mixed, X, steps=1)


def test_an_activation_that_cannot_be_stacked_is_refused():
    members = [SparseAutoencoder(seed=seed, activation=torch.nn.PReLU()) for seed in range(2)]
    with pytest.raises(ValueError, match=r"not so: activation.weight"):
        train_ensemble(members, X, steps=1)
    train(members[0], X, steps=1)  # alone it is as good as any


def test_a_function_is_an_activation():
    model = SparseAutoencoder(seed=0, activation=torch.nn.functional.softplus)
    out = model(X)
    assert torch.equal(out.latents, torch.nn.functional.softplus(out.pre_activations))
    with pytest.raises(TypeError, match=r"activation must be a function, got 0\.2: give one"):
        SparseAutoencoder(activation=0.2)


def test_what_would_be_lost_is_refused(tmp_path):
    for make in (MAKE["threshold"], MAKE["TopK"]):
        [model] = models(make, 1)
        with pytest.raises(ValueError, match=r"activation must be torch.relu.*safetensors"):
            save(model, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=r"activation of the models must be torch.relu"):
            train_at_frequency([model], X, rho=0.2, steps=7)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.compile's own
def test_a_compiled_ensemble_trains_alike():
    plain, compiled = models(MAKE["band"]), models(MAKE["band"])
    train_ensemble(plain, X, steps=6, batch_size=64)
    train_ensemble(compiled, X, steps=6, batch_size=64, compile=True)
    for one, other in zip(plain, compiled, strict=True):
        assert_alike(one, other, 1e-4)
