import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from saetools import (
    SparseAutoencoder,
    batches,
    chicago_context,
    evaluate,
    frequency_penalty,
    initialise_for_frequency_,
    train,
    train_ensemble,
)
from saetools.initialise import skewed_units_
from saetools.training.progress import Bar
from saetools.training.recipe import learn_shift_hold, recommended, train_at_frequency
from saetools.training.start import start_at_frequency_

X = chicago_context().train[::9]  # 507 rows
RHOS = [0.15, torch.tensor([0.05, 0.1, 0.2, 0.5])]


def members(count=2, sizes=(20, 16, 4)):
    return [SparseAutoencoder(sizes, seed=seed) for seed in range(count)]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def same(models, others):
    return all(
        torch.equal(a, b)
        for model, other in zip(models, others, strict=True)
        for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def misses(models, rho, x=X):
    """How far each unit's share of active rows is from rho, in rows."""
    with torch.no_grad():
        shares = torch.stack([(model.encode(x) > 0).double().mean(0) for model in models])
    return (shares - rho).abs() * len(x)


def penalty(rho):
    return lambda output: frequency_penalty(output.pre_activations, rho=rho, dim=-2)


def test_a_start_is_the_two_functions_on_each_model():
    models, expected = members(3), members(3)
    assert start_at_frequency_(models, X, rho=0.2) is models
    for model in expected:
        skewed_units_(model.encoder[-1], model.code_inputs(X))
        initialise_for_frequency_(model, X, rho=0.2)
    assert same(models, expected)


@pytest.mark.parametrize("skewed", [True, False])
@pytest.mark.parametrize("rho", RHOS, ids=["one rho", "one a unit"])
def test_a_start_is_at_rho_with_a_spread_of_1_and_changes_the_code_alone(rho, skewed):
    models, before = members(), [state(model) for model in members()]
    start_at_frequency_(models, X, rho=rho, skewed=skewed)
    assert (misses(models, rho) <= 1).all()
    for model, old in zip(models, before, strict=True):
        with torch.no_grad():
            z = model.encode(X)
        assert z.std(0).tolist() == pytest.approx([1] * 4, rel=1e-4)
        correlation = torch.corrcoef(z.T) - torch.eye(4)
        assert (correlation.abs().max() < 1e-3) == skewed
        assert changed(old, state(model)) == {"encoder.1.weight", "encoder.1.bias"}


def test_a_code_wider_than_its_inputs_starts_in_its_own_directions():
    wide = members(sizes=(20, 32))
    with pytest.raises(ValueError, match=r"inputs must vary in at least as many .*, 32, got"):
        start_at_frequency_(wide, X, rho=0.2, skewed=True)
    history = train_at_frequency(wide, X, rho=0.2, skewed=False, steps=4)
    assert history.error.shape == (4, 2)
    assert (misses(wide, 0.2) <= 1).all()


@pytest.mark.parametrize("rho", RHOS, ids=["one rho", "one a unit"])
@pytest.mark.parametrize("make_penalty", [penalty, lambda rho: None], ids=["penalty", "none"])
def test_afterwards_each_unit_is_at_rho_to_within_one_row(rho, make_penalty):
    models = members()
    history = learn_shift_hold(models, X, make_penalty(rho), rho=rho, steps=14, lr=1e-2)
    assert (misses(models, rho) <= 1).all()
    assert history.error.shape == history.penalty.shape == (14, 2)


def test_a_tolerance_lets_few_rows_be_as_near_to_rho_as_they_can():
    for function in (start_at_frequency_, train_at_frequency):
        with pytest.raises(ValueError, match=r"the nearest share is 0\.333"):
            function(members(sizes=(20, 2)), X[:3], rho=0.2)
    models = members(sizes=(20, 2))
    with pytest.raises(ValueError, match=r"the nearest share is 0\.333"):
        learn_shift_hold(models, X[:3], None, rho=0.2, steps=7)
    train_at_frequency(models, X[:3], rho=0.2, tolerance=0.14, steps=7)
    assert (misses(models, 1 / 3, X[:3]) < 1e-6).all()


@pytest.mark.parametrize("steps", [4, 5, 7, 14, 20, 23])
def test_five_steps_in_seven_are_penalised(steps):
    models = members()
    history = learn_shift_hold(models, X, penalty(0.2), rho=0.2, steps=steps)
    assert history.error.shape == (steps, 2)
    assert (history.error > 0).all()
    first = 5 * steps // 7
    assert (history.penalty[:first] > 0).all()
    assert (history.penalty[first:] == 0).all()


def test_the_rate_rises_evenly_stays_and_falls_evenly_to_0():
    rates = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    try:
        learn_shift_hold(members(), X, None, rho=0.2, steps=28, lr=0.01)
    finally:
        hook.remove()
    rising, constant, falling = rates[:8], rates[8:20], rates[20:]
    assert rising == pytest.approx([0.01 * (1 / 8 + 7 / 8 * step / 8) for step in range(8)])
    assert constant == pytest.approx([0.01] * 12)
    assert falling == pytest.approx([0.01 * (8 - step) / 8 for step in range(8)])


@pytest.mark.parametrize(("options", "weight"), [({}, 0.2), ({"weight": 3.0}, 3.0)])
def test_the_penalty_is_weighted(options, weight):
    models = members(1)
    start_at_frequency_(models, X, rho=0.4)
    batch = next(batches(X, 128, seed=7))
    expected = weight * frequency_penalty(models[0].encode(batch), rho=0.2).item()
    history = learn_shift_hold(models, X, penalty(0.2), rho=0.2, steps=7, seeds=[7], **options)
    assert history.penalty[0].item() == pytest.approx(expected, rel=1e-5)


def test_the_encoder_is_held_but_for_one_shift_of_the_codes_bias():
    models = members()
    history = learn_shift_hold(models, X, penalty(0.2), rho=0.2, steps=14, lr=1e-2, observe=state)
    steps, (start, learned, shifted, end) = zip(*history.observations, strict=True)
    assert steps == (0, 10, 10, 14)

    assert changed(start, learned) == set(start)
    assert changed(learned, shifted) == {"encoder.1.bias"}
    assert changed(shifted, end) == {name for name in start if name.startswith("decoder.")}
    assert (end["encoder.1.bias"][1, 0] == models[1].encoder[1].bias).all()


def test_learning_is_train_ensembles():
    models, plain = members(), members()
    seen = {}

    def look(ensemble):
        return seen.setdefault(len(seen), state(ensemble))

    learn_shift_hold(models, X, penalty(0.2), rho=0.2, steps=7, batch_size=50, observe=look)
    train_ensemble(
        plain,
        X,
        penalty(0.2),
        steps=5,
        weight=0.2,
        batch_size=50,
        lr=1.5e-3,
        scheduler=lambda adam: torch.optim.lr_scheduler.LinearLR(adam, 1 / 2, 1.0, 2),
    )
    for member, model in enumerate(plain):
        assert torch.equal(seen[1]["encoder.0.weight"][member], model.encoder[0].weight.T)


class StoppedError(Exception):
    pass


def test_parameters_learn_again_afterwards_also_if_training_was_stopped():
    models = members()
    for model in models:
        model.encoder[0].bias.requires_grad_(False)  # by the user, who wants to keep it so
    wanted = [parameter.requires_grad for parameter in models[0].parameters()]
    kept = models[0].encoder[0].bias.clone()

    def flags():
        return [[parameter.requires_grad for parameter in model.parameters()] for model in models]

    learn_shift_hold(models, X, None, rho=0.2, steps=7)
    assert flags() == [wanted] * 2
    assert torch.equal(models[0].encoder[0].bias, kept)

    def stop_while_held(ensemble):
        if not any(parameter.requires_grad for parameter in ensemble.encoder.parameters()):
            held.append(True)
            raise StoppedError

    held = []
    with pytest.raises(StoppedError):
        learn_shift_hold(models, X, None, rho=0.2, steps=7, observe=stop_while_held)
    assert held
    assert flags() == [wanted] * 2


@pytest.mark.filterwarnings("ignore:rho = 0.05 of 64 rows")
@pytest.mark.parametrize("rho", RHOS, ids=["one rho", "one a unit"])
def test_train_at_frequency_is_its_parts(rho):
    options = {"steps": 14, "batch_size": 64, "seeds": [3, 5], "lr": 5e-3, "weight": 0.4}
    models, parts = members(), members()
    history = train_at_frequency(models, X, rho=rho, **options)
    start_at_frequency_(parts, X, rho=rho)
    expected = learn_shift_hold(parts, X, recommended(rho), rho=rho, **options)
    assert same(models, parts)
    assert torch.equal(history.error, expected.error)
    assert torch.equal(history.penalty, expected.penalty)
    assert (misses(models, rho) <= 1).all()


def test_one_model_is_trained_as_a_list_of_one_is():
    model, [other] = members(1)[0], members(1)
    history = train_at_frequency(model, X, rho=0.2, steps=7)
    expected = train_at_frequency([other], X, rho=0.2, steps=7)
    assert same([model], [other])
    assert history.error.shape == history.penalty.shape == (7,)
    assert torch.equal(history.error[:, None], expected.error)
    assert learn_shift_hold(model, X, None, rho=0.2, steps=4).error.shape == (4,)
    with pytest.raises(TypeError, match=r"models\[0\] must be .*: see train_layer_at_frequency"):
        train_at_frequency(torch.nn.Linear(20, 4), X, rho=0.2)


def test_one_bar_shows_both_phases_the_error_and_the_worst_unit(capsys):
    models = members()
    history = train_at_frequency(models, X, rho=0.2, steps=14, progress=True)
    shown = capsys.readouterr().err
    assert shown.count("0/14") == shown.count("\n") == 1
    last = shown.rpartition("\r")[2]
    assert "14/14" in last
    assert f"error {history.error[-1].mean():.3g}, worst unit" in last
    worst = float(last.partition("worst unit ")[2].split()[0])
    assert worst == pytest.approx(misses(models, 0.2).max().item() / len(X), abs=6e-4)


def test_a_bar_tells_the_mean_error_and_the_largest_distance_on_either_side(capsys):
    bar = Bar(3, lambda model: torch.tensor([[0.1, -0.3], [0.2, 0.0]]))
    for steps, error in ((0, None), (3, torch.tensor([0.1, 0.3]))):
        bar.advance(steps, torch.nn.Identity(), error)
    assert "3/3" in (shown := capsys.readouterr().err)
    assert "error 0.2, worst unit 0.300 from rho" in shown


def test_skewed_is_passed_on():
    models, parts = members(), members()
    train_at_frequency(models, X, rho=0.2, skewed=False, steps=7)
    start_at_frequency_(parts, X, rho=0.2, skewed=False)
    learn_shift_hold(parts, X, recommended(0.2), rho=0.2, steps=7)
    assert same(models, parts)


def test_each_member_is_as_it_would_be_alone():
    together, alone = members(), members()
    train_at_frequency(together, X, rho=0.2, steps=7, seeds=[4, 6])
    for model, seed in zip(alone, (4, 6), strict=True):
        train_at_frequency([model], X, rho=0.2, steps=7, seeds=[seed])
    for one, other in zip(together, alone, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:the error of the last 50 steps")  # so few steps
def test_it_learns_and_the_global_random_state_and_the_rows_are_left_alone():
    models = members()
    kept, random_state = X.clone(), torch.get_rng_state()
    error = train_at_frequency(models, X, rho=0.2, steps=210).error
    assert torch.equal(X, kept)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert (error[-20:].mean(0) < 0.5 * error[:5].mean(0)).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 3}, ValueError, "steps must be at least 4, got 3"),
        ({"steps": 7.0}, TypeError, "steps must be an int, got 7.0"),
        ({"weight": -1}, ValueError, "weight must be finite and at least 0, got -1"),
        ({"lr": 0}, ValueError, "lr must be finite and greater than 0, got 0"),
        ({"rho": 0.0}, ValueError, "rho must lie strictly between 0 and 1, got 0.0"),
        ({"rho": "0.2"}, TypeError, "rho must be a number or a tensor, got str"),
        ({"x": X + 1}, ValueError, r"x must lie in \[0, 1\], got values"),
        ({"models": []}, ValueError, "models must hold at least one model, got none"),
        ({"models": [*members(1), SparseAutoencoder((20, 4))]}, ValueError, "models must be alike"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    for function, extra in ((train_at_frequency, {}), (learn_shift_hold, {"penalty": None})):
        good = {"models": members(), "x": X, "rho": 0.2, "steps": 7}
        with pytest.raises(error, match=message):
            function(**(good | extra | arguments))


def test_rows_that_are_not_finite_are_refused_before_anything_changes():
    models = members()
    with pytest.raises(ValueError, match="x must be finite"):
        train_at_frequency(models, X / 0, rho=0.2, steps=7)
    assert same(models, members())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"models": [torch.nn.Linear(20, 4)]}, TypeError, r"models\[0\] must be a SparseAuto"),
        ({"rho": 1.5}, ValueError, "rho must lie strictly between 0 and 1, got 1.5"),
        ({"x": torch.full((50, 20), torch.nan)}, ValueError, "x must be finite, got nan"),
    ],
    ids=["another module", "rho", "NaN"],
)
def test_what_is_wrong_shows_before_any_step_and_any_change(arguments, error, message):
    models = members()
    given = {"models": models, "x": X, "rho": 0.2} | arguments
    before = [state(model) for model in models]
    for function in (
        start_at_frequency_,
        lambda models, x, rho: learn_shift_hold(models, x, None, rho=rho),
    ):
        with pytest.raises(error, match=message):
            function(given["models"], given["x"], rho=given["rho"])
    for model, old in zip(models, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in state(model).items())


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"batchsize": 64}, TypeError, "no option 'batchsize': did you mean batch_size"),
        ({"penalty_weight": 1.0}, TypeError, "no option 'penalty_weight': did you mean weight"),
        ({"scheduler": None}, TypeError, "no option 'scheduler'.*The options are steps, weight"),
        ({"seed": 3}, TypeError, "no option 'seed': did you mean seeds"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"observe_every": -1}, ValueError, "observe_every must be at least 1, got -1"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1, got 0"),
        ({"checkpoint": 3}, TypeError, r"path must be a str or a pathlib\.Path, got int"),
        ({"lr": 0}, ValueError, "lr must be finite and greater than 0, got 0"),
        ({"lr": [1e-3]}, TypeError, "lr must be a number"),
        ({"seeds": [1]}, ValueError, "seeds must hold one value per member, 2, got 1"),
        ({"steps": 3}, ValueError, "steps must be at least 4, got 3"),
        ({"weight": -1}, ValueError, "weight must be finite and at least 0, got -1"),
        ({"value_range": (0.5, 1)}, ValueError, r"x must lie in \[0\.5, 1\], got values"),
        ({"tolerance": 2.0}, ValueError, "tolerance must lie strictly between 0 and 1, got 2.0"),
        ({"observe": 3}, TypeError, "observe must be a function, got 3"),
    ],
    ids=str,
)
def test_a_wrong_option_leaves_the_models_as_they_were(option, error, message):
    for function, extra in ((train_at_frequency, {}), (learn_shift_hold, {"penalty": None})):
        models = members()
        with pytest.raises(error, match=message):
            function(**{"models": models, "x": X, "rho": 0.2, "steps": 7, **extra, **option})
        assert same(models, members())


def test_an_error_in_the_middle_leaves_the_models_as_they_were():
    calls = []

    def observe(ensemble):
        calls.append(ensemble)
        if len(calls) == 8:  # after the shift
            raise KeyboardInterrupt

    models = members()
    with pytest.raises(KeyboardInterrupt):
        train_at_frequency(models, X, rho=0.2, steps=7, observe=observe, observe_every=1)
    assert same(models, members())
    with pytest.raises(ValueError, match="the nearest share is"):  # of the second unit alone
        train_at_frequency(models, X[:5], rho=torch.tensor([0.4, 0.2, 0.2, 0.09]), steps=7)
    assert same(models, members())


@pytest.mark.parametrize("rho", [0.05, 0.2])
def test_inside_a_block_of_autocast_units_are_at_rho_by_the_exact_weights(rho):
    models, x = members(), X.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        start_at_frequency_(models, x, rho=rho)
    assert misses(models, rho, x.float()).max() < 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learn_shift_hold(models, x, penalty(rho), rho=rho, steps=14)
    assert misses(models, rho, x.float()).max() < 2


def test_weights_in_half_precision_are_refused():
    model = SparseAutoencoder(seed=0).bfloat16()
    before = state(model)
    with pytest.raises(ValueError, match=r"got torch.bfloat16: start and train it in float32"):
        initialise_for_frequency_(model, X.bfloat16(), rho=0.2)
    with pytest.raises(ValueError, match=r"got torch.bfloat16: start and train it in float32"):
        train_at_frequency([model], X.bfloat16(), rho=0.2, steps=4, skewed=False)
    assert not changed(before, state(model))


def test_by_default_directions_are_skewed_where_there_are_enough_and_left_alone_elsewhere():
    for sizes, skewed in (((20, 16, 4), True), ((20, 64), False)):
        chosen, told = members(2, sizes), members(2, sizes)
        start_at_frequency_(chosen, X, rho=0.2)
        start_at_frequency_(told, X, rho=0.2, skewed=skewed)
        assert same(chosen, told)
    overcomplete = members(1, (20, 64))
    train_at_frequency(overcomplete, X, rho=0.2, steps=4)
    assert misses(overcomplete, 0.2).max() <= 1
    with pytest.raises(ValueError, match=r"units, 64, got 20: .* \(skewed=False\)"):
        train_at_frequency(members(1, (20, 64)), X, rho=0.2, steps=4, skewed=True)


@pytest.mark.parametrize("one", [True, False])
def test_the_last_batch_of_an_epoch_may_be_small_and_each_may_not(one):
    def trained(batch_size):
        model, options = SparseAutoencoder(seed=0), {"steps": 8, "batch_size": batch_size}
        if one:
            train(model, X, lambda output: penalty(0.05)(output), **options)
        else:
            train_ensemble([model], X, penalty(0.05), **options)

    trained(112)  # 59 rows are left: 3 of them are to be on
    with pytest.warns(UserWarning, match="rho = 0.05 of 96 rows is 4.8 row.* Give 100 rows"):
        trained(96)


def with_large_means(mean=1000.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 3, generator=generator) @ torch.randn(3, 8, generator=generator)
    return x + torch.tensor([mean] + [0.0] * 7)


@pytest.mark.parametrize("sizes", [(8, 4), (8, 32, 4)])
@pytest.mark.parametrize("skewed", [None, False])
def test_a_feature_with_a_large_mean_is_no_harm_without_bounds_on_the_output(sizes, skewed):
    """From where a decoder is made, its bias would have 1000 to go, at 0.0015 a step."""
    x, model = with_large_means(), SparseAutoencoder(sizes, nn.Identity(), seed=0)
    train_at_frequency([model], x, rho=0.2, skewed=skewed, steps=700, value_range=None)
    assert evaluate(model, x).fvu < 0.8
    assert misses([model], 0.2, x).max() < 2
    if len(sizes) == 3:  # units of the first layer are on for some rows and off for others
        fresh = initialise_for_frequency_(
            SparseAutoencoder(sizes, nn.Identity(), seed=1), x, rho=0.2
        )
        share = (fresh.encoder[0](x) > 0).float().mean(0)
        assert ((share > 0.2) & (share < 0.8)).all()


def test_where_the_output_is_bounded_only_the_code_changes_and_an_error_gives_all_back():
    for output in (torch.sigmoid, torch.relu):
        model = SparseAutoencoder((8, 16, 4), output, seed=0)
        before = state(model)
        initialise_for_frequency_(model, with_large_means(), rho=0.2)
        assert changed(before, state(model)) == {"encoder.1.weight", "encoder.1.bias"}
    model = SparseAutoencoder((8, 16, 4), nn.Identity(), seed=0)
    before = state(model)
    with pytest.raises(ValueError, match="Give more rows"):
        initialise_for_frequency_(model, with_large_means()[:3], rho=0.2)
    assert not changed(before, state(model))


WORTHLESS = (
    r"no less than the variance of x, .* \(FVU >= 1\).* torch.nn.Identity\(\) for data without"
)


@pytest.mark.parametrize(
    "training",
    [
        train,
        lambda model, x, **options: train(model, x.split(100), **options),
        lambda model, x, **options: train_ensemble(
            [SparseAutoencoder((8, 4), seed=1), model], x, **options
        ),
        lambda model, x, **options: train_at_frequency([model], x, rho=0.2, **options),
    ],
    ids=["one", "batches", "many", "recipe"],
)
def test_a_reconstruction_no_better_than_the_mean_is_a_warning(training):
    """A sigmoid cannot follow data without bounds, whatever the frequencies are."""
    model, x = SparseAutoencoder((8, 4), seed=0), with_large_means(10.0)
    with pytest.warns(UserWarning, match=WORTHLESS):
        training(model, x, steps=140, value_range=None)


def test_a_killed_code_is_a_warning_after_the_recipe_on_bounded_rows_too():
    model, x = SparseAutoencoder((20, 4), seed=0), X[:, :1].expand(-1, 20) * 0 + 0.5
    x = x + 0.01 * X  # far less spread than a sigmoid learns to follow in so few steps
    with pytest.warns(UserWarning, match=WORTHLESS):
        train_at_frequency([model], x, rho=0.2, steps=400, weight=1000.0, lr=1e-6)


def test_what_learns_or_has_hardly_begun_is_no_warning():
    x = with_large_means(0.0)
    model = start_at_frequency_([SparseAutoencoder((8, 4), nn.Identity(), seed=0)], x, rho=0.2)[0]
    train(model, x, steps=300, value_range=None)
    train(SparseAutoencoder((8, 4), seed=0), x, steps=99, value_range=None)
