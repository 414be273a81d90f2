import copy
import inspect
import pickle
import random

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from saetools import (
    SparseAutoencoder,
    chicago_context,
    frequency_penalty,
    start_at_frequency_,
    train_at_frequency,
)
from saetools.reuse.sklearn import SparseAutoencoderTransformer

DAYS = chicago_context()
X, TEST = (7 * x.double().numpy() + 1000 for x in (DAYS.train[::9], DAYS.test))  # 507 rows, 1140


def transformer(n_components=4, **options):
    return SparseAutoencoderTransformer(
        n_components, **({"steps": 14, "hidden_layer_sizes": (16,), "random_state": 0} | options)
    )


@parametrize_with_checks([SparseAutoencoderTransformer(steps=4)])
def test_scikit_learns_own_checks(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # one of the checks is skipped without it
    check(estimator)


@pytest.mark.nightly
@parametrize_with_checks([SparseAutoencoderTransformer(steps=700)])
def test_the_same_checks_after_longer_training(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    check(estimator)


@pytest.mark.parametrize("rho", [0.05, 0.5, torch.tensor([0.05, 0.1, 0.2, 0.5])])
@pytest.mark.parametrize("hidden_layer_sizes", [(), [16, 8]])
def test_each_unit_is_at_rho_on_the_rows_of_fit(rho, hidden_layer_sizes):
    sae = transformer(rho=rho, hidden_layer_sizes=hidden_layer_sizes)
    assert sae.fit(X) is sae
    code = sae.transform(X)
    assert code.shape == (507, 4)
    assert (code >= 0).all()
    assert (np.abs(code.astype(bool).mean(0) - np.asarray(rho)) * len(X) <= 1).all()
    assert sae.frequencies_ == pytest.approx(code.astype(bool).mean(0))
    assert sae.model_.sizes == (20, *hidden_layer_sizes, 4)


def test_fit_is_the_recipe_on_centred_and_scaled_rows():
    options = {"steps": 14, "batch_size": 50, "weight": 0.5, "learning_rate": 0.01}
    sae = transformer(**options, rho=0.3, random_state=3).fit(X)
    first, second = np.random.RandomState(3).randint(2**31 - 1, size=2).tolist()
    mean, scale = X.mean(0), np.sqrt(((X - X.mean(0)) ** 2).mean())
    x = torch.tensor((X - mean) / scale)
    model = SparseAutoencoder((20, 16, 4), nn.Identity(), seed=first).double()
    history = train_at_frequency(
        [model],
        x,
        rho=0.3,
        steps=14,
        batch_size=50,
        weight=0.5,
        lr=0.01,
        seeds=[second],
        value_range=None,
    )
    assert sae.mean_ == pytest.approx(mean)
    assert sae.scale_ == pytest.approx(scale)
    assert sae.history_ == {
        "error": pytest.approx(history.error[:, 0].tolist()),
        "penalty": pytest.approx(history.penalty[:, 0].tolist()),
    }
    assert sae.n_iter_ == 14
    with torch.no_grad():
        output = model(x)
    code = sae.transform(X)
    assert code == pytest.approx(output.latents.numpy(), abs=1e-6)
    expected = output.reconstruction.numpy() * scale + mean
    assert sae.inverse_transform(code) == pytest.approx(expected)


def test_the_unit_of_the_table_does_not_matter():
    sae, other = transformer().fit(X), transformer().fit(X * 2.0**30 - 2.0**36)
    assert other.transform(X * 2.0**30 - 2.0**36) == pytest.approx(sae.transform(X), abs=1e-6)
    assert other.scale_ == pytest.approx(sae.scale_ * 2.0**30)


def test_it_learns_what_r2_score_measures():
    sae = transformer(steps=350).fit(X)
    found = sae.inverse_transform(sae.transform(X))
    assert sae.score(X) == pytest.approx(r2_score(X, found, multioutput="variance_weighted"))
    found = sae.inverse_transform(sae.transform(TEST))
    assert sae.score(TEST) == pytest.approx(r2_score(TEST, found, multioutput="variance_weighted"))
    assert 0.3 < sae.score(X) < 1
    assert sae.score(X) > transformer(steps=35).fit(X).score(X)
    assert np.mean(sae.history_["error"][-20:]) < 0.5 * np.mean(sae.history_["error"][:5])
    assert np.isscalar(sae.score(X))


@pytest.mark.parametrize(
    "rows",
    [
        np.column_stack([X[:, :3], np.full((507, 2), 0.1)]),
        X[:, :1],
        X[:10],
        X[:, [0, 0, 0, 0, 0]],
        (X - 1000) * 1e-100,
        X.astype(int),
        pd.DataFrame(X).astype("Float32"),
    ],
    ids=["constant columns", "one column", "ten rows", "equal columns", "small", "int", "nullable"],
)
@pytest.mark.parametrize("hidden_layer_sizes", [(), (16,)])
def test_awkward_rows_have_units_at_rho_and_a_finite_reconstruction(rows, hidden_layer_sizes):
    sae = transformer(hidden_layer_sizes=hidden_layer_sizes).fit(rows)
    code = sae.transform(rows)
    assert (np.abs((code > 0).mean(0) - 0.2) <= 0.05).all()
    assert np.isfinite(sae.inverse_transform(code)).all()
    assert np.isfinite(sae.score(rows))


def test_few_rows_need_a_tolerance_and_are_then_as_near_as_they_can_be():
    with pytest.raises(ValueError, match=r"share rho = 0\.2 of the 3 rows .* tolerance=0\.14"):
        transformer().fit(X[:3])
    assert transformer(tolerance=0.14).fit(X[:3]).frequencies_ == pytest.approx([1 / 3] * 4)


def test_a_code_may_be_wider_than_the_rows():
    assert transformer(40, hidden_layer_sizes=()).fit(X).frequencies_ == pytest.approx(
        0.2, abs=2e-3
    )


@pytest.mark.parametrize("units", [3, 4])
def test_where_there_are_directions_enough_units_start_uncorrelated(units):
    sae = transformer(units, hidden_layer_sizes=(), learning_rate=1e-12).partial_fit(X[:, :4])
    z = sae.model_.encode(torch.tensor((X[:, :4] - sae.mean_) / sae.scale_)).detach().numpy()
    assert np.corrcoef(z.T) == pytest.approx(np.eye(units), abs=1e-6)


@pytest.mark.parametrize("kind", [int, np.random.RandomState])
def test_equal_seeds_give_equal_results_and_others_others(kind):
    codes = [transformer(random_state=kind(seed)).fit_transform(X) for seed in (3, 3, 4)]
    assert (codes[0] == codes[1]).all()
    assert (codes[0] != codes[2]).any()


def test_a_random_state_is_drawn_from_and_none_is_new_each_time():
    for random_state in (np.random.RandomState(0), None):
        sae = transformer(random_state=random_state)
        assert (sae.fit_transform(X) != sae.fit_transform(X)).any()


def global_random_state():
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), name, keys.tolist(), rest, torch.get_rng_state().tolist()


@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_global_random_state_and_rows_are_left_alone(method, random_state):
    rows, before = X.copy(), global_random_state()
    sae = getattr(transformer(random_state=random_state), method)(rows)
    sae.inverse_transform(sae.transform(rows))
    assert (rows == X).all()
    assert global_random_state() == before


def test_the_first_batch_decides_scale_and_start_and_each_is_one_step_of_adam():
    batches = X[:300], X[300:]
    sae = transformer(rho=0.3, weight=0.5, learning_rate=0.01)
    mean, scale = batches[0].mean(0), np.sqrt(batches[0].var(0).mean())
    first, second = (torch.tensor((batch - mean) / scale) for batch in batches)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    model = SparseAutoencoder((20, 16, 4), nn.Identity(), seed=seed).double()
    start_at_frequency_([model], first, rho=0.3)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for steps, (rows, x) in enumerate(zip(batches, (first, second), strict=True), start=1):
        output = model(x)
        error = (output.reconstruction - x).square().mean()
        penalty = 0.5 * frequency_penalty(output.pre_activations, rho=0.3)
        adam.zero_grad()
        (error + penalty).backward()
        adam.step()
        assert sae.partial_fit(rows) is sae
        with torch.no_grad():
            expected = model(x).latents.numpy()
        assert sae.transform(rows) == pytest.approx(expected, abs=1e-9)
        assert sae.frequencies_ == pytest.approx((expected > 0).mean(0))
        assert sae.n_iter_ == steps
        assert sae.history_["error"][-1] == pytest.approx(error.item())
        assert sae.history_["penalty"][-1] == pytest.approx(penalty.item())
    assert sae.mean_ == pytest.approx(mean)
    assert sae.scale_ == pytest.approx(scale)


@pytest.mark.slow
def test_partial_fits_learn_and_come_near_rho():
    sae = transformer(rho=0.15)
    start = sae.partial_fit(X).score(X)
    for _ in range(200):
        sae.partial_fit(X)
    assert sae.n_iter_ == 201
    assert sae.score(X) > start + 0.3
    assert sae.frequencies_ == pytest.approx([0.15] * 4, abs=0.1)
    assert (sae.set_params(rho=0.5).partial_fit(X).frequencies_ < 0.3).all()
    for _ in range(400):
        sae.partial_fit(X)
    assert sae.frequencies_ == pytest.approx([0.5] * 4, abs=0.1)


def test_partial_fit_goes_on_from_fit_at_the_rate_of_the_time_and_takes_a_single_row():
    sae = transformer(steps=140).fit(X)
    before = sae.transform(X)
    sae.set_params(learning_rate=1e-12).partial_fit(X)
    assert sae.transform(X) == pytest.approx(before, abs=1e-9)
    sae.set_params(learning_rate=1e-2).partial_fit(X[:1])
    assert np.abs(sae.transform(X) - before).max() > 1e-3
    assert sae.n_iter_ == len(sae.history_["error"]) == 142
    assert sae.fit(X).n_iter_ == 140
    assert (sae.transform(X) != before).any()  # at the new rate, anew
    assert (transformer(steps=140, learning_rate=1e-2).fit_transform(X) == sae.transform(X)).all()


def test_a_batch_whose_loss_is_not_finite_changes_nothing():
    sae = transformer().partial_fit(X)
    before = sae.transform(X)
    with pytest.raises(FloatingPointError, match="the loss is inf, and no step was taken"):
        sae.partial_fit(X * 1e200)
    assert (sae.transform(X) == before).all()
    assert sae.n_iter_ == 1


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("learning_rate", [1e5, 1e6])
def test_training_that_does_not_stay_finite_is_an_error(method, learning_rate):
    sae = transformer(learning_rate=learning_rate, hidden_layer_sizes=[16] * 5, steps=35)
    rows = X.astype(np.float32)
    if method == "partial_fit":
        sae.partial_fit(rows)  # the step after which nothing is finite
    with pytest.raises(FloatingPointError, match=r"not stay finite|no step was taken"):
        getattr(sae, method)(rows)


def test_a_step_beyond_all_numbers_is_an_error_at_once():
    with pytest.raises(FloatingPointError, match="did not stay finite"):
        transformer(learning_rate=1e39).partial_fit(X.astype(np.float32))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda sae: pickle.loads(pickle.dumps(sae))])
def test_a_copy_goes_on_as_the_original_does(duplicate):
    sae = transformer().partial_fit(X).partial_fit(X)
    other = duplicate(sae)
    before = sae.transform(X)
    for each in (sae, other):
        each.partial_fit(X[:100])
    assert (other.transform(X) == sae.transform(X)).all()
    assert (before != sae.transform(X)).any()


def test_a_clone_has_the_parameters_and_nothing_learned():
    rho = torch.tensor([0.1, 0.2, 0.3, 0.4])
    other = clone(transformer(rho=rho).fit(X))
    assert not hasattr(other, "model_")
    assert torch.equal(other.rho, rho)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_computes_in_the_dtype_of_the_rows(dtype):
    sae = transformer().fit(X.astype(dtype))
    code = sae.transform(X.astype(dtype))
    assert code.dtype == sae.inverse_transform(code).dtype == sae.frequencies_.dtype == dtype
    assert sae.frequencies_ == pytest.approx(0.2, abs=2e-3)
    assert sae.transform(X).dtype == dtype  # as fitted
    assert {parameter.dtype for parameter in sae.model_.parameters()} == {code_dtype(dtype)}


def code_dtype(dtype):
    return torch.from_numpy(np.empty(0, dtype)).dtype


def test_the_device_is_passed_on():
    assert transformer(device="cpu").fit(X).model_.encoder[0].weight.device.type == "cpu"
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        transformer(device="meta").fit(X)


def test_pandas_in_and_out():
    frame = pd.DataFrame(X, columns=DAYS.feature_names, index=range(1000, 1507))
    sae = transformer().set_output(transform="pandas").fit(frame)
    code = sae.transform(frame)
    names = [f"sparseautoencodertransformer{unit}" for unit in range(4)]
    assert list(code.columns) == list(sae.get_feature_names_out()) == names
    assert (code.index == frame.index).all()
    assert tuple(sae.feature_names_in_) == DAYS.feature_names
    assert sae.n_features_in_ == 20
    assert np.array_equal(code, transformer().fit(frame).transform(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        sae.transform(frame[frame.columns[::-1]])


def test_in_a_pipeline():
    weekend = X[:, -1] > 1000
    scaled = X * np.logspace(-3, 3, 20)  # columns in different units
    pipeline = make_pipeline(StandardScaler(), transformer(steps=140), LogisticRegression())
    pipeline.fit(scaled, weekend)
    assert pipeline[1].frequencies_ == pytest.approx(0.2, abs=2e-3)
    assert pipeline.score(scaled, weekend) >= max(weekend.mean(), 1 - weekend.mean())
    names = pipeline[:-1].get_feature_names_out()
    assert list(names) == [f"sparseautoencodertransformer{unit}" for unit in range(4)]


def test_in_a_grid_search_over_rho():
    rhos = [0.1, 0.4]
    pipeline = make_pipeline(StandardScaler(), transformer(steps=35))
    search = GridSearchCV(
        pipeline, {"sparseautoencodertransformer__rho": rhos}, cv=2, error_score="raise"
    )
    search.fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_[-1]
    assert best.rho == rhos[search.cv_results_["mean_test_score"].argmax()]
    assert best.frequencies_ == pytest.approx(best.rho, abs=2e-3)
    assert search.score(X) == pytest.approx(best.score(search.best_estimator_[0].transform(X)))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_there_is_no_sample_weight_on_purpose(method):
    assert "sample_weight" not in inspect.signature(getattr(transformer(), method)).parameters
    assert "no sample_weight, on purpose" in SparseAutoencoderTransformer.__doc__


BAD = [
    ({"n_components": 0}, ValueError, "n_components must be at least 1, got 0"),
    ({"n_components": 4.0}, TypeError, r"n_components must be an int, got 4\.0"),
    ({"hidden_layer_sizes": 16}, TypeError, "hidden_layer_sizes must be a sequence of ints, got"),
    ({"hidden_layer_sizes": (16, 0)}, ValueError, "hidden_layer_sizes must be at least 1, got 0"),
    ({"rho": 1}, ValueError, "rho must lie strictly between 0 and 1, got 1"),
    ({"rho": "0.2"}, TypeError, "rho must be a number or a tensor, got str"),
    ({"tolerance": 0}, ValueError, "tolerance must lie strictly between 0 and 1, got 0"),
    ({"learning_rate": 0}, ValueError, "learning_rate must be finite and greater than 0, got 0"),
    ({"weight": -1}, ValueError, "weight must be finite and at least 0, got -1"),
    ({"random_state": "0"}, ValueError, "'0' cannot be used to seed"),
]
BAD_IN_FIT = [
    ({"steps": 3}, ValueError, "steps must be at least 4, got 3"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
]


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [("fit", *bad) for bad in BAD + BAD_IN_FIT] + [("partial_fit", *bad) for bad in BAD],
)
def test_bad_parameters_are_refused_and_nothing_is_learned(method, options, error, message):
    sae = transformer(**options)
    with pytest.raises(error, match=message):
        getattr(sae, method)(X)
    assert not hasattr(sae, "model_")


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X * np.inf, "infinity"),
        (np.full((50, 3), 0.1), "X must vary"),
        (X * 1e200, "X must vary by amounts that can be squared, got spread inf"),
        ((X - 1000) * 1e-200, "X must vary by amounts that can be squared, got spread 0"),
        (X[:1], "1 sample"),
        ((X[:, :1] > 1002).astype(float), "unit 0 cannot be active on a share rho = 0.2 of the"),
    ],
    ids=["infinite", "constant", "large", "small", "one row", "two values"],
)
def test_rows_that_cannot_be_learned_from_are_refused(method, rows, message):
    with pytest.raises(ValueError, match=message):
        getattr(transformer(), method)(rows)


def test_scores_and_codes_that_mean_nothing_are_refused():
    sae = transformer().fit(X)
    with pytest.raises(ValueError, match="a minimum of 2 is required"):
        sae.score(X[:1])
    with pytest.raises(ValueError, match="x must vary"):
        sae.score(np.ones((5, 20)))
    with pytest.raises(ValueError, match="X must have one column per unit, 4, got 3"):
        sae.inverse_transform(np.ones((5, 3)))
    with pytest.raises(ValueError, match="NaN"):
        sae.inverse_transform(np.full((5, 4), np.nan))
