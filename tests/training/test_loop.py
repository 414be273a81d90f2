import math
import random

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader

from saetools import (
    Output,
    PostedAutoencoder,
    SparseAutoencoder,
    batches,
    chicago_context,
    posted_penalty,
    sparse_mixture,
    train,
    train_ensemble,
)

X = torch.rand(100, 20, generator=torch.Generator().manual_seed(0))


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_it_is_the_loop_that_one_would_write_by_hand():
    ours, by_hand = SparseAutoencoder(seed=0), SparseAutoencoder(seed=0)
    history = train(
        ours,
        X,
        lambda output: output.latents.mean(),
        steps=30,
        batch_size=32,
        lr=0.002,
        seed=5,
        scheduler=lambda adam: LinearLR(adam, 1.0, 0.0, total_iters=30),
    )
    adam = torch.optim.Adam(by_hand.parameters(), lr=0.002, fused=True)
    errors = []
    for step, batch in zip(range(30), batches(X, 32, seed=5), strict=False):
        adam.param_groups[0]["lr"] = 0.002 * (1 - step / 30)
        output = by_hand(batch)
        error = nn.functional.mse_loss(output.reconstruction, batch)
        errors.append(error.item())
        adam.zero_grad()
        (error + output.latents.mean()).backward()
        adam.step()
    torch.testing.assert_close(weights(ours), weights(by_hand), atol=1e-6, rtol=1e-5)
    assert history.error.tolist() == pytest.approx(errors, rel=1e-5)


def test_a_loss_of_ones_own_has_any_batches_and_says_what_the_penalty_is_given():
    torch.manual_seed(0)
    model, other = (nn.Linear(20, 3) for _ in range(2))
    other.load_state_dict(model.state_dict())
    labels = X.argmax(1) % 3
    pairs = list(zip(X.split(25), labels.split(25), strict=True))

    def loss(model, batch):
        rows, classes = batch
        logits = model(rows)
        return nn.functional.cross_entropy(logits, classes), logits

    options = {"loss": loss, "steps": 6, "weight": 0.5}
    history = train(model, pairs, lambda logits: logits.square().mean(), **options)
    adam = torch.optim.Adam(other.parameters(), lr=1e-3, fused=True)
    for step in range(6):
        error, logits = loss(other, pairs[step % 4])
        adam.zero_grad()
        (error + 0.5 * logits.square().mean()).backward()
        adam.step()
    torch.testing.assert_close(weights(model), weights(other))
    assert history.error[-1].item() == pytest.approx(error.item())
    assert history.penalty[-1].item() == pytest.approx(0.5 * logits.square().mean().item())

    numbers = torch.arange(100)  # rows of any dtype
    train(model, numbers, loss=lambda m, at: loss(m, (X[at], labels[at])), steps=2)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda x: x.mean(), r"scalar, and what the penalty is given, got tensor\(0\."),
        (lambda x: (x, x), r"got torch\.Size\(\[100, 20\]\)"),
        (lambda x: (0.1, x), r"got 0\.1"),
    ],
)
def test_a_loss_that_returns_something_else_is_refused(returned, message):
    with pytest.raises(TypeError, match=message):
        train(SparseAutoencoder(seed=0), X, loss=lambda model, x: returned(x), steps=1)


def test_training_lowers_the_error():
    x = chicago_context().train
    history = train(SparseAutoencoder(seed=0), x, steps=200, batch_size=128)
    assert history.error[-20:].mean() < 0.5 * history.error[:5].mean()
    assert (history.penalty == 0).all()


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not():
    runs = []
    for seed in (0, 0, 1):
        model = SparseAutoencoder(seed=0)
        train(model, X, steps=20, batch_size=32, seed=seed)
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_global_random_states_are_left_alone():
    states = torch.get_rng_state(), random.getstate()
    train(SparseAutoencoder(seed=0), X, steps=5)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()


def test_a_penalty_without_a_gradient_changes_no_bit():
    pair = []
    for penalty in (None, lambda output: posted_penalty(output.latents, batch_size=640)):
        model = PostedAutoencoder(seed=0)
        train(model, X, penalty, steps=40, batch_size=32)
        pair.append(weights(model))
    assert torch.equal(*pair)


def test_a_penalty_with_a_gradient_does_change_them():
    pair = []
    for penalty in (None, lambda output: 0.01 * output.latents.mean()):
        model = PostedAutoencoder(seed=0)
        train(model, X, penalty, steps=5, batch_size=32)
        pair.append(weights(model))
    assert not torch.equal(*pair)


def test_a_penalty_that_turns_nan_stops_training_and_is_named():
    calls = []

    def penalty(output):
        calls.append(1)
        return output.latents.sum() * (math.nan if len(calls) == 3 else 0.0)

    model = SparseAutoencoder(seed=0)
    with pytest.raises(FloatingPointError, match="the penalty is not finite at step 2 "):
        train(model, X, penalty, steps=10)
    assert weights(model).isfinite().all()  # it stopped before the step that would spoil them


def test_an_error_that_turns_infinite_is_named():
    class Diverged(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return Output(x * self.weight * 1e30, x, x)

    with pytest.raises(FloatingPointError, match="the squared error is not finite at step 0 "):
        train(Diverged(), X, steps=10)


def test_a_gradient_that_is_nan_behind_a_finite_loss_is_noticed_and_dated():
    for steps in (1, 5):
        with pytest.raises(FloatingPointError, match=r"a gradient is not finite at step 0 "):
            train(
                SparseAutoencoder(seed=0),
                X,
                lambda out: (out.latents * 0).sum().sqrt(),
                steps=steps,
            )


@pytest.mark.filterwarnings("ignore:Applying the CPU mse kernel")  # torch 2.4's, of float16
def test_terms_that_overflow_only_together_are_not_accused_alone():
    model = SparseAutoencoder(output=lambda x: x, seed=0).half()
    with pytest.raises(FloatingPointError, match="the sum of squared error and penalty is not"):
        train(
            model,
            X.half() * 50 + 200,
            lambda output: output.latents.sum() * 0 + 60_000,
            steps=1,
            value_range=(200, 250),
        )


def test_data_that_require_a_gradient_and_an_empty_looking_penalty():
    class Penalty(nn.ModuleList):
        def forward(self, output):
            return output.latents.sum() * 0 + 1

    x = X.clone().requires_grad_()
    history = train(SparseAutoencoder(seed=0), x, Penalty(), steps=6, batch_size=32)
    assert (history.penalty == 1).all()
    assert x.grad is None


def test_history_keeps_the_dtype_of_the_model():
    history = train(SparseAutoencoder(seed=0).double(), X.double(), steps=2)
    assert history.error.dtype == torch.float64


def test_what_is_drawn_does_not_depend_on_an_ambient_default_device():
    plain = SparseAutoencoder(seed=0)
    with torch.device("meta"):
        elsewhere = SparseAutoencoder(seed=0)
        mixture = sparse_mixture(10, device="cpu")
        batch = next(batches(X, 4, seed=0))
    assert elsewhere.encoder[0].weight.device.type == "meta"
    assert torch.equal(mixture.train, sparse_mixture(10).train)
    assert torch.equal(batch, next(batches(X, 4, seed=0)))
    with torch.device("meta"), torch.device("cpu"):
        assert torch.equal(SparseAutoencoder(seed=0).encoder[0].weight, plain.encoder[0].weight)


def test_a_range_of_ones_own_is_held():
    with pytest.raises(ValueError, match=r"x must lie in \[0, 0.5\]"):
        train(SparseAutoencoder(seed=0), X, steps=1, value_range=(0, 0.5))


def test_the_caller_may_go_on_regardless():
    model, twin = PostedAutoencoder(seed=0), PostedAutoencoder(seed=0)
    history = train(
        model,
        X,
        lambda output: posted_penalty(output.latents, batch_size=32),
        steps=10,
        batch_size=32,
        stop_if_not_finite=False,
    )
    train(twin, X, steps=10, batch_size=32)
    assert history.penalty.isnan().any()
    assert torch.equal(weights(model), weights(twin))


def test_observations_come_before_in_between_and_at_the_end_without_a_gradient():
    def observe(model):
        assert not torch.is_grad_enabled()
        return weights(model)

    model = SparseAutoencoder(seed=0)
    start = weights(model).clone()
    history = train(model, X, steps=25, observe=observe, observe_every=10)
    assert [step for step, _ in history.observations] == [0, 10, 20, 25]
    assert torch.equal(history.observations[0][1], start)
    assert torch.equal(history.observations[-1][1], weights(model))


def test_progress_is_shown_where_it_is_asked_for(capsys):
    train(SparseAutoencoder(seed=0), X, steps=2, progress=True)
    assert "2/2" in capsys.readouterr().err
    train(SparseAutoencoder(seed=0), X, steps=2)
    assert capsys.readouterr().err == ""


def test_a_bar_begins_where_training_goes_on(tmp_path, capsys):
    for at_first in ("0/6", "6/6"):
        train(SparseAutoencoder(seed=0), X, steps=6, checkpoint=tmp_path / "a", progress=True)
        shown = capsys.readouterr().err
        assert at_first in shown
    assert "0/6" not in shown


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X.tolist(), TypeError, "x must be a torch.Tensor, got list"),
        ((X * 10).int(), TypeError, r"x must have a floating dtype, got torch.int32: use x.float"),
        (X.to(torch.complex64), TypeError, "x must have a floating dtype, got torch.complex64"),
        (X[0], ValueError, r"x must have at least 2 dims, got shape \(20,\)"),
        (X[:0], ValueError, r"x must not be empty, got shape \(0, 20\)"),
        (X + 1, ValueError, r"x must lie in \[0, 1\], got values from 1.* to 1.*: scale it, or"),
        (X.where(X > 0.01, math.nan), ValueError, "x must be finite, got nan at"),
        (X.where(X > 0.01, math.inf), ValueError, "x must be finite, got inf at"),
    ],
)
def test_bad_data_are_refused_before_anything_is_trained(x, error, message):
    model = SparseAutoencoder(seed=0)
    start = weights(model).clone()
    with pytest.raises(error, match=message):
        train(model, x, steps=3)
    assert torch.equal(weights(model), start)


def test_unbounded_data_are_welcome_where_the_caller_says_so():
    model = SparseAutoencoder(output=lambda x: x, seed=0)
    assert train(model, 10 * X - 5, steps=3, value_range=None).error.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 1.0}, TypeError, "steps must be an int, got 1.0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"observe_every": -1}, ValueError, "observe_every must be at least 1, got -1"),
        ({"lr": 0}, ValueError, "lr must be finite and greater than 0, got 0"),
        ({"lr": math.nan}, ValueError, "lr must be finite and greater than 0, got nan"),
        ({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        train(SparseAutoencoder(seed=0), X, **({"steps": 3} | arguments))


def test_a_penalty_that_is_no_scalar_is_refused():
    with pytest.raises(
        ValueError, match=r"a tensor of shape \(\), .*a sum over the units .*, got shape \(4,\)"
    ):
        train(SparseAutoencoder(seed=0), X, lambda output: output.latents.mean(0), steps=3)
    with pytest.raises(TypeError, match="penalty must return a tensor, got float"):
        train(SparseAutoencoder(seed=0), X, lambda output: 0.1, steps=3)


def test_a_weight_scales_what_is_added_and_may_depend_on_the_progress():
    x = torch.rand(64, 20)

    def one(output):
        return torch.ones(()) + 0 * output.latents.sum()

    constant = train(SparseAutoencoder(seed=0), x, one, steps=4, weight=0.3)
    assert constant.penalty.tolist() == pytest.approx([0.3] * 4)
    raised = train(SparseAutoencoder(seed=0), x, one, steps=4, weight=lambda done: done)
    assert raised.penalty.tolist() == [0, 0.25, 0.5, 0.75]


def test_a_weight_of_zero_trains_as_no_penalty_does():
    x = torch.rand(64, 20)
    one, other = SparseAutoencoder(seed=0), SparseAutoencoder(seed=0)
    train(one, x, lambda output: output.latents.sum(), steps=5, weight=0)
    train(other, x, steps=5)
    for got, expected in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), lambda done: -done - 1])
def test_a_negative_weight_is_refused(weight):
    with pytest.raises(ValueError, match="weight must be finite and at least 0"):
        train(SparseAutoencoder(seed=0), torch.rand(9, 20), steps=2, weight=weight)


def mean_latent(output):
    return output.latents.mean()


def test_batches_may_come_from_any_iterable():
    options = {"steps": 5, "lr": 0.01}
    rows = X[:96]
    parts = list(rows.split(32))
    histories, ends = [], []
    for x in (parts, DataLoader(rows, batch_size=32), iter(2 * parts)):  # 5 steps need 5 of 6
        model = SparseAutoencoder(seed=0)
        histories.append(train(model, x, mean_latent, **options))
        ends.append(weights(model))
    by_hand = SparseAutoencoder(seed=0)
    adam = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    for batch in (2 * parts)[:5]:
        output = by_hand(batch)
        loss = (output.reconstruction - batch).square().mean() + mean_latent(output)
        adam.zero_grad()
        loss.backward()
        adam.step()
    expected = weights(by_hand)
    for history, end in zip(histories, ends, strict=True):
        assert torch.equal(history.error, histories[0].error)
        torch.testing.assert_close(end, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([], ValueError, "run out after 0 batches"),
        (iter([X, X]), ValueError, "run out after 2 batches"),
        ([X, X.double().numpy()], TypeError, r"got ndarray: use torch\.as_tensor"),
        ([X, X * math.nan], ValueError, "x must be finite, got nan"),
        ([X, X + 1], ValueError, r"x must lie in \[0, 1\]"),
        ([(X, X)], TypeError, "batches of rows alone, .* got a tuple of 2: use DataLoader"),
        (3, TypeError, "x must be a torch.Tensor, or batches of them, got int"),
        (None, TypeError, "or batches of them, got NoneType"),
    ],
)
def test_batches_are_checked_as_they_come(x, error, message):
    with pytest.raises(error, match=message):
        train(SparseAutoencoder(seed=0), x, steps=3)


def test_a_checkpoint_needs_the_rows_at_hand(tmp_path):
    with pytest.raises(ValueError, match="checkpoint needs x as a tensor"):
        train(SparseAutoencoder(seed=0), [X], steps=3, checkpoint=tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def in_one_model(model, **options):
    return train(model, chicago_context().train, **options).error


def in_an_ensemble(model, **options):
    return train_ensemble([model], chicago_context().train, **options).error[:, 0]


@pytest.mark.parametrize("training", [in_one_model, in_an_ensemble])
def test_inside_a_block_of_autocast_it_learns_as_outside(training):
    """Around all steps, autocast would keep what it made of the weights before the first."""
    options = {"steps": 60, "lr": 0.01}
    outside = training(SparseAutoencoder(seed=0), **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = training(SparseAutoencoder(seed=0), **options)
    torch.testing.assert_close(inside, outside, rtol=0.1, atol=0)
    assert outside[-1] < 0.5 * outside[0]
