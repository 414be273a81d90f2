import math
import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from saetools import (
    FrequencyMultipliers,
    PostedAutoencoder,
    SparseAutoencoder,
    activation_frequency,
    bernoulli_kl,
    smooth,
    straight_through_frequency,
    train,
    train_ensemble,
)
from saetools.training.stacking import stack

X = torch.rand(100, 20, generator=torch.Generator().manual_seed(0))  # 3 batches of 32, and 4 rows
RHO = torch.tensor([[0.1], [0.2], [0.3], [0.5]], dtype=torch.float64)
STEPS = 200


def sparsity(rho):
    def penalty(output):
        rho_hat = smooth(straight_through_frequency(output.pre_activations, 0.3))
        return bernoulli_kl(rho_hat, rho=rho).sum(-1)

    return penalty


def members(count=3, kind=SparseAutoencoder, **settings):
    return [kind(seed=seed, **settings) for seed in range(count)]


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def to_zero(adam):
    return LinearLR(adam, 1.0, 0.0, total_iters=STEPS)


@pytest.mark.parametrize("scheduler", [None, to_zero], ids=["constant", "linear"])
def test_every_member_is_trained_as_train_would_train_it_alone(scheduler):
    together, alone = (
        [SparseAutoencoder(seed=seed).double() for seed in (3, 1, 4, 2)] for _ in range(2)
    )
    seeds = [5, 0, 7, 5]
    shared = {"steps": STEPS, "batch_size": 32, "scheduler": scheduler, "lr": 2e-3}
    history = train_ensemble(together, X.double(), sparsity(RHO), seeds=seeds, **shared)
    for i, model in enumerate(alone):
        start = weights(model).clone()
        expected = train(model, X.double(), sparsity(RHO[i]), seed=seeds[i], **shared)
        assert (weights(model) - start).abs().max() > 0.01
        torch.testing.assert_close(weights(together[i]), weights(model), rtol=0, atol=1e-12)
        torch.testing.assert_close(history.error[:, i], expected.error, rtol=0, atol=1e-12)
        torch.testing.assert_close(history.penalty[:, i], expected.penalty, rtol=0, atol=1e-12)


class Squared(SparseAutoencoder):
    def decode(self, latents):
        return super().decode(latents).square()


@pytest.mark.parametrize("kind", [SparseAutoencoder, PostedAutoencoder, Squared])
def test_a_single_steps_gradients_agree_in_float32(kind):
    models = members(4, kind)
    ensemble = stack(models)
    batch = X[:32]

    def loss(output):
        error = (output.reconstruction - batch).square().mean((-2, -1))
        return error + sparsity(0.2)(output)

    loss(ensemble(batch.expand(4, -1, -1))).sum().backward()
    for i, model in enumerate(models):
        loss(model(batch)).backward()
        for part in ("encoder", "decoder"):
            for layer, stacked in zip(getattr(model, part), getattr(ensemble, part), strict=True):
                torch.testing.assert_close(
                    stacked.weight.grad[i].T, layer.weight.grad, rtol=1e-5, atol=1e-6
                )
                torch.testing.assert_close(
                    stacked.bias.grad[i, 0], layer.bias.grad, rtol=1e-5, atol=1e-6
                )


@pytest.mark.parametrize("kind", [PostedAutoencoder, Squared])
def test_other_networks_train_as_they_would_alone(kind):
    together, alone = ([model.double() for model in members(3, kind)] for _ in range(2))
    history = train_ensemble(together, X.double(), sparsity(0.2), steps=30, batch_size=32)
    for i, model in enumerate(alone):
        expected = train(model, X.double(), sparsity(0.2), steps=30, batch_size=32, seed=i)
        torch.testing.assert_close(weights(together[i]), weights(model), rtol=0, atol=1e-12)
        torch.testing.assert_close(history.error[:, i], expected.error, rtol=0, atol=1e-12)


def test_without_a_penalty_the_history_of_it_is_nought():
    history = train_ensemble(members(), X, steps=4)
    assert history.error.shape == history.penalty.shape == (4, 3)
    assert (history.error > 0).all()
    assert not history.penalty.any()


def test_models_are_trained_in_place_and_stay_ordinary():
    models = members(3, PostedAutoencoder)
    parameters = [list(model.parameters()) for model in models]
    starts = [weights(model).clone() for model in models]
    like = PostedAutoencoder(seed=0).state_dict()
    train_ensemble(models, X, steps=3)
    for model, before, start in zip(models, parameters, starts, strict=True):
        assert type(model) is PostedAutoencoder
        assert all(a is b for a, b in zip(model.parameters(), before, strict=True))
        assert not torch.equal(weights(model), start)
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        assert shapes == {name: value.shape for name, value in like.items()}
        assert all(parameter.is_leaf and parameter.requires_grad for parameter in before)
        assert model(X).reconstruction.shape == X.shape
    train(models[0], X, steps=1)


def test_members_share_nothing_but_the_data():
    models, fewer = (
        [model.double() for model in members(4)],
        [model.double() for model in members(2)],
    )
    train_ensemble(models, X.double(), sparsity(0.2), steps=20, batch_size=32)
    train_ensemble(fewer, X.double(), sparsity(0.2), steps=20, batch_size=32)
    for model, twin in zip(models, fewer, strict=False):
        torch.testing.assert_close(weights(model), weights(twin), rtol=0, atol=1e-13)


def test_the_global_random_states_and_the_data_are_left_alone():
    x = X.clone()
    states = torch.get_rng_state(), random.getstate()
    train_ensemble(members(), x, sparsity(0.2), steps=5)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert torch.equal(x, X)


def test_frozen_layers_stay_frozen_to_the_bit():
    models = members()
    for model in models:
        model.encoder[0].requires_grad_(False)
        model.decoder[-1].bias.requires_grad_(False)
    before = [model.state_dict() for model in models]
    before = [{name: value.clone() for name, value in state.items()} for state in before]
    train_ensemble(models, X, sparsity(0.2), steps=5, lr=1e-2)
    frozen = {"encoder.0.weight", "encoder.0.bias", "decoder.2.bias"}
    for model, start in zip(models, before, strict=True):
        same = {name for name, value in model.state_dict().items() if value.equal(start[name])}
        assert same == frozen
        needing = dict(model.named_parameters())
        assert {name for name, value in needing.items() if not value.requires_grad} == frozen


def test_observations_see_every_member_without_a_gradient_and_at_the_steps_of_train():
    def observe(ensemble):
        assert not torch.is_grad_enabled()
        return activation_frequency(ensemble(X.double()).pre_activations)

    models = [model.double() for model in members()]
    starts = [activation_frequency(model.encode(X.double())) for model in models]
    history = train_ensemble(
        models, X.double(), sparsity(0.2), steps=25, observe=observe, observe_every=10
    )
    assert [step for step, _ in history.observations] == [0, 10, 20, 25]
    assert history.observations[0][1].shape == (3, 4)
    for i, model in enumerate(models):
        assert torch.equal(history.observations[0][1][i], starts[i])
        now = activation_frequency(model.encode(X.double()))
        assert torch.equal(history.observations[-1][1][i], now)
    assert not torch.equal(history.observations[0][1], history.observations[-1][1])


def test_a_member_that_starts_as_nan_is_named_and_the_others_are_not_touched():
    sick, healthy = members(4), members(4)
    with torch.no_grad():
        sick[2].encoder[0].weight[0, 0] = math.nan
    with pytest.warns(RuntimeWarning, match=r"1 of 4 members are not finite: 2 \(squared error"):
        history = train_ensemble(sick, X, sparsity(0.2), steps=20, batch_size=32)
    expected = train_ensemble(healthy, X, sparsity(0.2), steps=20, batch_size=32)
    assert history.error[:, 2].isnan().all()
    for i in (0, 1, 3):
        assert torch.equal(weights(sick[i]), weights(healthy[i]))
        assert torch.equal(history.error[:, i], expected.error[:, i])


class Gain(SparseAutoencoder):
    gain = 1.0

    def decode(self, latents):
        return self.gain * super().decode(latents)


def test_models_that_differ_in_an_attribute_or_share_a_layer_are_refused():
    one, other = Gain(seed=0), Gain(seed=1)
    other.gain = 5.0
    with pytest.raises(ValueError, match=r"gain is None in models\[0\], 5.0 in models\[1\]"):
        train_ensemble([one, other], X, steps=1)
    one, other = members(2)
    other.encoder = one.encoder
    with pytest.raises(ValueError, match=r"models\[0\] and models\[1\] share weights"):
        train_ensemble([one, other], X, steps=1)


def test_seeds_may_come_as_an_array_or_a_tensor():
    trained = [members() for _ in range(3)]
    for models, seeds in zip(
        trained, ([1, 2, 3], np.arange(1, 4), torch.arange(1, 4)), strict=True
    ):
        train_ensemble(models, X, steps=2, batch_size=32, seeds=seeds)
    for one, two, three in zip(*trained, strict=True):
        assert torch.equal(weights(one), weights(two))
        assert torch.equal(weights(one), weights(three))


def test_a_penalty_that_turns_nan_for_one_member_is_named_with_its_step():
    calls = []

    def penalty(output):
        calls.append(1)
        factors = torch.tensor([1.0, math.nan if len(calls) == 3 else 1.0])
        return factors * output.latents.mean((-2, -1))

    models = members(2)
    with pytest.warns(RuntimeWarning, match=r"1 of 2 members .*: 1 \(penalty, from step 2\); the"):
        train_ensemble(models, X, penalty, steps=5)


def test_a_gradient_that_is_nan_behind_a_finite_loss_is_noticed_at_the_end():
    def penalty(output):
        roots = (output.latents * torch.tensor([1.0, 0.0])[:, None, None]).square().sum(-1)
        return (roots + torch.tensor([[1.0], [0.0]])).sqrt().mean(-1)

    models = members(2)
    with pytest.warns(RuntimeWarning, match=r"1 of 2 .*: 1 \(weights, from step 1\)"):
        train_ensemble(models, X, penalty, steps=1)
    assert weights(models[0]).isfinite().all()


def test_healthy_members_warn_of_nothing():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_ensemble(members(), X, sparsity(0.2), steps=3)
    assert caught == []


def test_seeds_count_from_0_by_default():
    by_default, given = members(), members()
    train_ensemble(by_default, X, steps=2, batch_size=32)
    train_ensemble(given, X, steps=2, batch_size=32, seeds=[0, 1, 2])
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(by_default, given, strict=True))
    same = [SparseAutoencoder(seed=0) for _ in range(2)]
    errors = train_ensemble(same, X, steps=4, batch_size=32).error
    assert not torch.equal(errors[:, 0], errors[:, 1])  # their rows come in another order
    same = [SparseAutoencoder(seed=0) for _ in range(2)]
    errors = train_ensemble(same, X, steps=4, batch_size=32, seeds=[3, 3]).error
    assert torch.equal(errors[:, 0], errors[:, 1])


def test_progress_is_shown_where_it_is_asked_for(capsys):
    train_ensemble(members(), X, steps=2, progress=True)
    assert "2/2" in capsys.readouterr().err
    train_ensemble(members(), X, steps=2)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_compile_without_a_compiler_says_what_to_do(monkeypatch):
    def broken(_, **__):
        def call(*_):
            raise OSError("no g++ here")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    models = members()
    starts = [weights(model).clone() for model in models]
    with pytest.raises(RuntimeError, match=r"compiler .* compile=False .* said: no g\+\+ here"):
        train_ensemble(models, X, steps=3, compile=True)
    for model, start in zip(models, starts, strict=True):
        assert torch.equal(weights(model), start)


def test_an_error_in_the_penalty_is_not_taken_for_a_missing_compiler(monkeypatch):
    def own_mistake(_):
        raise ValueError("of my own making")

    # torch.compile wraps what it meets in errors of its own.
    monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda *_: [][1])
    with pytest.raises(ValueError, match="of my own making"):
        train_ensemble(members(), X, own_mistake, steps=3, compile=True)


def test_the_compiled_step_is_what_is_trained_on(monkeypatch):
    calls = []

    def without_a_compiler(slope, **_):
        def call(rows, weight):
            calls.append((rows.shape, weight.item()))
            return slope(rows, weight)

        return call

    monkeypatch.setattr(torch, "compile", without_a_compiler)
    options = {"steps": 5, "batch_size": 32, "weight": lambda done: done}
    plain, compiled = members(), members()
    constraint, twin = (FrequencyMultipliers(rho=0.2, rate=1.0) for _ in range(2))
    train_ensemble(plain, X, constraint, **options)
    assert calls == []
    train_ensemble(compiled, X, twin, **options, compile=True)
    shapes, taken = zip(*calls, strict=True)
    assert shapes == tuple((3, count) for count in (32, 32, 32, 4, 32))
    assert taken == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert torch.equal(constraint.multipliers, twin.multipliers)
    for model, other in zip(plain, compiled, strict=True):
        assert torch.equal(weights(model), weights(other))


def test_gradients_may_come_in_any_layout(monkeypatch):
    def other_layout(slope, **_):
        def call(batch, weight):
            error, cost, gradients = slope(batch, weight)
            return error, cost, tuple(g.mT.contiguous().mT for g in gradients)

        return call

    monkeypatch.setattr(torch, "compile", other_layout)
    plain, compiled = members(), members()
    train_ensemble(plain, X, steps=3)
    train_ensemble(compiled, X, steps=3, compile=True)
    for model, other in zip(plain, compiled, strict=True):
        assert torch.equal(weights(model), weights(other))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [None, sparsity(0.2), "multipliers"])
def test_the_step_is_traced_as_one_graph_and_trains_alike(monkeypatch, penalty):
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return aot_eager(graph, example_inputs)  # all but the C++ code

    aot_eager = torch._dynamo.lookup_backend("aot_eager")
    plain, compiled = members(), members()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for models in (plain, compiled):
        for model in models:
            model.encoder[0].requires_grad_(False)
        own = FrequencyMultipliers(rho=0.2) if penalty == "multipliers" else penalty
        train_ensemble(
            models,
            X,
            own,
            steps=6,  # with a smaller batch among them
            batch_size=32,
            weight=lambda done: done,
            compile=models is compiled,
        )
    for model, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(weights(model), weights(other), rtol=0, atol=1e-6)
    # One for each size of a batch; a constraint has no multipliers yet at its first.
    expected = 3 if penalty == "multipliers" else 2
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        expected += 1  # what comes after the gradients, in an older torch
    assert len(graphs) == expected


def with_parameter():
    model = SparseAutoencoder(seed=0)
    model.gain = nn.Parameter(torch.ones(1))
    return model


def with_buffer():
    model = SparseAutoencoder(seed=0)
    model.register_buffer("mean", torch.zeros(20))
    return model


def without_bias():
    model = SparseAutoencoder(seed=0)
    model.decoder[0] = nn.Linear(4, 40, bias=False)
    return model


def frozen():
    model = SparseAutoencoder(seed=0)
    model.decoder[0].requires_grad_(False)
    return model


def with_another_layer():
    class Cosine(nn.Linear):
        def forward(self, x):
            return super().forward(nn.functional.normalize(x, dim=-1))

    model = SparseAutoencoder(seed=0)
    model.encoder[-1] = Cosine(40, 4)
    return model


TWICE = SparseAutoencoder(seed=0)


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ([], ValueError, "models must hold at least one model, got none"),
        ([nn.Linear(20, 20)], TypeError, r"models\[0\] must be a SparseAutoencoder, got Linear"),
        ([SparseAutoencoder(), None], TypeError, r"models\[1\] must be a .*, got NoneType"),
        (
            [TWICE, TWICE],
            ValueError,
            r"models must be separate, models\[0\] and models\[1\] share weights",
        ),
        (
            [SparseAutoencoder(), SparseAutoencoder((20, 8, 4))],
            ValueError,
            r"sizes is \(20, 80, 40, 4\) in models\[0\], \(20, 8, 4\) in models\[1\]",
        ),
        (
            [SparseAutoencoder(), SparseAutoencoder(output=torch.relu)],
            ValueError,
            r"models must be alike in all but weights: output is .*sigmoid.*relu",
        ),
        (
            [SparseAutoencoder(output=torch.relu), PostedAutoencoder()],
            ValueError,
            r"class is .*SparseAutoencoder.* in models\[0\], .*PostedAuto",
        ),
        (
            [SparseAutoencoder(), SparseAutoencoder().double()],
            ValueError,
            r"dtype is torch.float32 in models\[0\], torch.float64 in models\[1\]",
        ),
        (
            [SparseAutoencoder(), SparseAutoencoder().to("meta")],
            ValueError,
            r"device is cpu in models\[0\], meta in models\[1\]",
        ),
        (
            [SparseAutoencoder(), SparseAutoencoder().eval()],
            ValueError,
            "training is True in models.0., False in",
        ),
        ([SparseAutoencoder(), frozen()], ValueError, r"decoder.0.weight.requires_grad is True in"),
        ([with_parameter()], ValueError, "must have all of their parameters .* not so: gain"),
        ([with_buffer()], ValueError, "must have all of their parameters .* not so: mean"),
        ([with_another_layer()], ValueError, r"not so: encoder\.2\.bias, encoder\.2\.weight"),
        ([without_bias()], ValueError, "layers with a bias, .* not so: decoder.0.bias"),
    ],
)
def test_models_that_cannot_be_stacked_are_refused(models, error, message):
    with pytest.raises(error, match=message):
        train_ensemble(models, X, steps=1)


def test_parameters_shared_between_layers_are_refused():
    model = SparseAutoencoder((20, 20, 20), seed=0)
    model.decoder[1].weight = model.decoder[0].weight
    with pytest.raises(ValueError, match="must not share a parameter between layers"):
        train_ensemble([model], X, steps=1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seeds": [0, 1]}, ValueError, "seeds must hold one value per member, 3, got 2"),
        ({"seeds": 5}, TypeError, "seeds must hold one value per member, 3, got 5"),
        ({"lr": None}, TypeError, "lr must be a number, got None"),
        ({"seeds": [0, 1, -1]}, ValueError, "seeds must be at least 0, got -1"),
        ({"seeds": [0, 1, 1.5]}, TypeError, "seeds must be an int, got 1.5"),
        ({"lr": [1e-3]}, TypeError, r"lr must be a number, got \[0.001\]"),
        ({"lr": math.nan}, ValueError, "lr must be finite and greater than 0, got nan"),
        ({"lr": -1}, ValueError, "lr must be finite and greater than 0, got -1"),
        ({"lr": True}, TypeError, "lr must be a number, got True"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 2.0}, TypeError, "steps must be an int, got 2.0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"observe_every": 0}, ValueError, "observe_every must be at least 1, got 0"),
        ({"x": X + 1}, ValueError, r"x must lie in \[0, 1\], got values from 1.* to 1.*: scale it"),
        ({"x": X * math.nan}, ValueError, "x must be finite, got nan at"),
        ({"x": X.int()}, TypeError, "x must have a floating dtype, got torch.int32"),
        ({"x": X[0]}, ValueError, r"x must have at least 2 dims, got shape \(20,\)"),
        (
            {"penalty": lambda output: output.latents.mean()},
            ValueError,
            r"penalty must return a tensor of shape \(3,\), .*, got shape \(\)",
        ),
        (
            {"penalty": lambda output: output.latents.mean(-2)},
            ValueError,
            r"penalty must return a tensor of shape \(3,\), .*, got shape \(3, 4\)",
        ),
        ({"penalty": lambda output: 0.1}, TypeError, "penalty must return a tensor, got float"),
    ],
)
def test_bad_arguments_are_refused_and_change_nothing(arguments, error, message):
    models = members()
    starts = [weights(model).clone() for model in models]
    with pytest.raises(error, match=message):
        train_ensemble(models, **({"x": X, "steps": 3} | arguments))
    for model, start in zip(models, starts, strict=True):
        assert torch.equal(weights(model), start)


def test_a_weight_that_follows_the_progress_is_that_of_train():
    models, alone = members(2), members(2)[0]

    def weight(done):
        return 0.1 + done

    history = train_ensemble(models, X, sparsity(0.2), steps=4, weight=weight)
    expected = train(alone, X, sparsity(0.2), steps=4, weight=weight)
    torch.testing.assert_close(history.penalty[:, 0], expected.penalty, rtol=1e-4, atol=1e-6)
