import matplotlib as mpl
import pytest
import torch

from saetools import (
    History,
    SparseAutoencoder,
    frequency_penalty,
    learn_shift_hold,
    train,
    train_ensemble,
)
from saetools.training.progress import Bar

X = torch.rand(64, 20, generator=torch.Generator().manual_seed(0))


def penalty(output):
    return frequency_penalty(output.pre_activations, rho=0.5, dim=-2)


@pytest.fixture
def axes():
    mpl.use("agg")
    from matplotlib import pyplot

    yield lambda: pyplot.subplots()[1]
    pyplot.close("all")


def rows(history):
    """What stands in the table, by the steps of each row."""
    lines = [line.split() for line in str(history).splitlines()[2:]]
    return {" ".join(steps): (float(e), float(p)) for *steps, e, p in lines if p != "observations"}


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 5, 7, 1000])
def test_each_step_is_in_one_row_of_a_short_table(steps):
    shown = rows(History(torch.full((steps,), 2.0), torch.full((steps,), 0.5), []))
    ends = [[int(end) for end in row.split(" - ")] for row in shown]
    assert [step for row in ends for step in range(row[0], row[-1] + 1)] == [*range(1, steps + 1)]
    assert len(shown) <= 5
    assert set(shown.values()) <= {(2.0, 0.5)}


def test_a_row_is_the_mean_over_its_steps_and_the_models():
    error = torch.tensor([[1.0, 3.0], [0.0, 0.5], [0.5, 1.0]])
    history = History(error, error / 10, [(0, None), (3, None)])
    assert rows(history) == {"1": (2.0, 0.2), "2": (0.25, 0.025), "3": (0.75, 0.075)}
    first, *_, last = str(history).splitlines()
    assert first.startswith("training of 2 models in 3 steps")
    assert last == "and 2 observations"
    assert repr(history) == str(history)


def test_a_plot_has_both_curves_and_says_what_its_axes_are(axes):
    history = train(SparseAutoencoder(seed=0), X, penalty, steps=5)
    ax = axes()
    assert history.plot(ax) is ax
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("step", "loss", "log")
    curves = {line.get_label(): line for line in ax.get_lines()}
    assert list(curves) == ["squared error", "weighted penalty"]
    assert curves["squared error"].get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert torch.tensor(curves["squared error"].get_ydata()).float().equal(history.error)
    assert torch.tensor(curves["weighted penalty"].get_ydata()).float().equal(history.penalty)
    assert not ax.collections


def test_many_models_are_a_median_and_a_band_and_no_penalty_is_no_line(axes):
    error = torch.tensor([[1.0, 5.0, 2.0], [0.5, 0.25, 0.75]])
    ax = History(error, torch.zeros(2, 3), []).plot(axes())
    [line], [band] = ax.get_lines(), ax.collections
    assert line.get_ydata().tolist() == [2.0, 0.5]
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.25, 5.0)


def test_a_penalty_below_0_is_seen_as_well(axes):
    ax = History(torch.ones(3), torch.tensor([0.1, -0.1, 0.1]), []).plot(axes())
    assert ax.get_yscale() == "linear"


def test_before_the_first_step_there_is_nothing_to_draw(axes):
    assert History(torch.empty(0), torch.empty(0), []).plot(axes()).get_lines()[:] == []


def test_axes_of_its_own_where_none_are_given(axes):
    assert History(torch.ones(3), torch.zeros(3), []).plot() is not axes()


def test_an_observer_with_a_second_parameter_is_given_the_history_so_far():
    seen = []

    def observe(_, history):
        seen.append(history)
        return len(history.error)

    options = {"steps": 25, "observe": observe, "observe_every": 10}
    history = train(SparseAutoencoder(seed=0), X, penalty, **options)
    assert history.observations == [(0, 0), (10, 10), (20, 20), (25, 25)]
    for steps, so_far in zip((0, 10, 20, 25), seen, strict=True):
        assert torch.equal(so_far.error, history.error[:steps])
        assert torch.equal(so_far.penalty, history.penalty[:steps])
    assert [len(so_far.observations) for so_far in seen] == [0, 1, 2, 3]
    unobserved = train(SparseAutoencoder(seed=0), X, penalty, steps=25)
    assert torch.equal(unobserved.error, history.error)


def test_it_is_that_of_all_members_and_of_a_recipes_phase():
    models = [SparseAutoencoder(seed=seed) for seed in range(3)]
    options = {"observe": lambda _, history: tuple(history.error.shape), "observe_every": 100}
    assert train_ensemble(models, X, steps=4, **options).observations == [(0, (0,)), (4, (4, 3))]
    history = learn_shift_hold(models, X, penalty, rho=0.5, steps=7, tolerance=0.4, **options)
    assert history.observations == [(0, (0,)), (5, (5, 3)), (5, (0,)), (7, (2, 3))]


@pytest.mark.parametrize(
    "observe",
    [lambda model: 1, lambda model, default=1: default, lambda *models: len(models)],
)
def test_a_default_is_not_overwritten(observe):
    history = train(SparseAutoencoder(seed=0), X, steps=1, observe=observe)
    assert history.observations == [(0, 1), (1, 1)]


@pytest.mark.parametrize(
    "observe", [type("Seen", (), {"__call__": lambda self, model, history: len(history.error)})()]
)
def test_an_object_that_can_be_called_may_ask_for_it_as_well(observe):
    assert train(SparseAutoencoder(seed=0), X, steps=1, observe=observe).observations[-1] == (1, 1)


def test_the_bar_has_error_penalty_and_the_worst_unit(capsys):
    bar = Bar(2, lambda model: torch.tensor([0.1, -0.3]))
    bar.advance(0, torch.nn.Identity())
    bar.advance(2, torch.nn.Identity(), torch.tensor([0.1, 0.3]), torch.tensor([1.0, 2.0]))
    shown = capsys.readouterr().err
    assert "error 0.2, penalty 1.5, worst unit 0.300 from rho" in shown


@pytest.mark.parametrize("cost", [penalty, None])
def test_training_shows_a_penalty_where_there_is_one(cost, capsys):
    history = train(SparseAutoencoder(seed=0), X, cost, steps=3, progress=True)
    last = capsys.readouterr().err.rpartition("\r")[2]
    assert f"error {history.error[-1]:.3g}" in last
    assert (f", penalty {history.penalty[-1]:.3g}" in last) == (cost is not None)
