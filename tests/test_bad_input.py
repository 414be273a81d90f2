"""Bad input gives an error that names what is wrong, or a defined result; never a silent NaN.

Where data enter (`ENTRANCES`), values are checked. Inside a step (`STEPS`) types and shapes are,
and NaN in gives NaN out, where it cannot be overlooked.
"""

import math
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from saetools import (
    FrequencyMeter,
    FrequencyMultipliers,
    Output,
    RunningFrequency,
    SparseAutoencoder,
    activation_frequency,
    backward_in_parts,
    batches,
    bernoulli_kl,
    bernoulli_kl_with_logits,
    dead_latents,
    dense_latents,
    evaluate,
    frequency_penalty,
    fvu,
    initialise_for_frequency_,
    l0,
    over_ranks,
    pool_rows,
    skewed_units_,
    smooth,
    soft_frequency,
    soft_frequency_logits,
    start_at_frequency_,
    step_frequency,
    straight_through_frequency,
    target_frequency_,
    train,
    train_at_frequency,
    train_ensemble,
    unit_spread_,
)
from saetools.metrics import match_factors
from saetools.sklearn import SparseAutoencoderTransformer

UNITS = 3
X = torch.rand(12, UNITS, generator=torch.Generator().manual_seed(0))
BIAS_TOLERANCE = 0.4  # few rows


def model():
    return SparseAutoencoder((UNITS, 2), seed=0)


def transformer(rho=0.5):
    options = {"rho": rho, "steps": 4, "hidden_layer_sizes": (), "random_state": 0}
    return SparseAutoencoderTransformer(2, tolerance=BIAS_TOLERANCE, **options)


FITTED = transformer().fit(X.numpy())


def trained(x, rho=0.5):
    trainee = model()
    options = {"steps": 4, "value_range": None, "tolerance": BIAS_TOLERANCE}
    train_at_frequency([trainee], x, rho=rho, **options)
    return evaluate(trainee, x)


def started(x, rho=0.5):
    [trainee] = start_at_frequency_([model()], x, rho=rho, tolerance=BIAS_TOLERANCE)
    return evaluate(trainee, x)


def counted(z):
    meter = FrequencyMeter()
    meter.update(z)
    return meter.compute()


def in_parts(x, rho):
    def loss(part, whole):
        return frequency_penalty(part, rho=rho, whole=whole)

    part = (
        x.clone().requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
    )
    return backward_in_parts(nn.Linear(1, 1), [part], loss)


def as_shares(z):
    """Frequencies, where z can be made into some."""
    return z.sigmoid() if isinstance(z, torch.Tensor) and z.is_floating_point() else z


ENTRANCES = {
    "batches": lambda x, rho: next(batches(x, 4, seed=0)),
    "train": lambda x, rho: train(model(), x, steps=2, value_range=None).error,
    "train, batches": lambda x, rho: train(model(), [x], steps=2, value_range=None).error,
    "train_ensemble": lambda x, rho: train_ensemble([model()], x, steps=2, value_range=None).error,
    "train_at_frequency": trained,
    "start_at_frequency_": started,
    "initialise_for_frequency_": lambda x, rho: evaluate(
        initialise_for_frequency_(model(), x, rho=rho), x
    ),
    "target_frequency_": lambda x, rho: target_frequency_(
        torch.zeros(UNITS), x, rho, tolerance=BIAS_TOLERANCE
    ),
    "unit_spread_": lambda x, rho: unit_spread_(nn.Linear(UNITS, 2), x).weight,
    "skewed_units_": lambda x, rho: skewed_units_(nn.Linear(UNITS, 2), x).weight,
    "evaluate": lambda x, rho: evaluate(model(), x),
    "fvu": lambda x, rho: fvu(torch.zeros(12, UNITS), x),
    "transformer.fit": lambda x, rho: transformer(rho).fit(x).frequencies_,
    "transformer.partial_fit": lambda x, rho: transformer(rho).partial_fit(x).frequencies_,
    "transformer.transform": lambda x, rho: FITTED.transform(x),
    "transformer.score": lambda x, rho: FITTED.score(x),
}
STEPS = {
    "activation_frequency": lambda z, rho: activation_frequency(z),
    "soft_frequency": lambda z, rho: soft_frequency(z, 0.3),
    "soft_frequency_logits": lambda z, rho: soft_frequency_logits(z, 0.3),
    "straight_through_frequency": lambda z, rho: straight_through_frequency(z, 0.3),
    "step_frequency": lambda z, rho: step_frequency(z, 0.3),
    "smooth": lambda z, rho: smooth(z),
    "bernoulli_kl": lambda z, rho: bernoulli_kl(as_shares(z), rho=rho),
    "bernoulli_kl_with_logits": lambda z, rho: bernoulli_kl_with_logits(z, rho=rho),
    "frequency_penalty": lambda z, rho: frequency_penalty(z, rho=rho),
    "backward_in_parts": in_parts,
    "over_ranks": lambda z, rho: over_ranks(z, 4),
    "RunningFrequency": lambda z, rho: RunningFrequency()(z, 4),
    "FrequencyMultipliers": lambda z, rho: FrequencyMultipliers(rho=rho)(Output(z, z, z)),
    "FrequencyMeter": lambda z, rho: counted(z),
    "pool_rows": lambda z, rho: pool_rows(z, units_dim=-1),
    "l0": lambda z, rho: l0(z),
    "dead_latents": lambda z, rho: dead_latents(as_shares(z)),
    "dense_latents": lambda z, rho: dense_latents(as_shares(z)),
    "match_factors": lambda z, rho: torch.tensor(match_factors(z, z).mean),
}
EVERY = ENTRANCES | STEPS
NAMES = re.compile(r"\b(x|inputs|pre_activations|rho_hat|logits|mean|reconstruction|rho)\b")
TAKES_RHO = {  # and needs it
    "train_at_frequency",
    "start_at_frequency_",
    "initialise_for_frequency_",
    "target_frequency_",
    "transformer.fit",
    "transformer.partial_fit",
    "bernoulli_kl",
    "bernoulli_kl_with_logits",
    "frequency_penalty",
    "backward_in_parts",
    "FrequencyMultipliers",
}
# Warnings are how a stacked training says that a member is lost, and scikit-learn that squares
# overflow.
SAID = pytest.mark.filterwarnings(
    "ignore:.* members are not finite:RuntimeWarning",
    "ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning",
)


def outcome(name, x, rho=0.5):
    """The error, if it is one that says what is wrong, or else what was returned."""
    try:
        return EVERY[name](x, rho)
    except (TypeError, ValueError, RuntimeError, FloatingPointError) as error:
        words = str(error)
        own = name.startswith("transformer")  # scikit-learn and NumPy read its rows, and say so
        named = isinstance(error, (TypeError, ValueError)) and NAMES.search(words)
        if not (named or own or "is not finite at" in words):
            raise
        return error


def finite(result):
    parts = result if isinstance(result, tuple) else (result,)
    return all(bool(torch.as_tensor(part).isfinite().all()) for part in parts)


def is_silent(name, x, result):
    """Whether something that is not finite came of finite input, and nothing said so."""
    if isinstance(result, Exception) or finite(result):
        return False
    if not torch.as_tensor(x).isfinite().all():
        return False
    if name == "bernoulli_kl":  # infinite at 0 and 1, as it should be
        return bool(result.isnan().any())
    return name not in ("train_ensemble", "train_at_frequency")  # which have warned


BAD = {
    "NaN": X.clone().index_fill_(0, torch.tensor([3]), math.nan),
    "infinity": X.clone().index_fill_(0, torch.tensor([3]), math.inf),
    "no rows": X[:0],
    "no columns": X[:, :0],
    "one row": X[:1],
    "equal rows": X[:1].expand(12, UNITS),
    "a constant column": torch.cat([X[:, :-1], torch.ones(12, 1)], 1),
    "integers": (9 * X).long(),
    "bools": X > 0.5,
    "complex": X.to(torch.complex64),
    "no dims": torch.tensor(0.5),
    "one dim": X[:, 0],
    "three dims": X[None].expand(2, -1, -1),
    "half precision": X.half(),
    "double precision": X.double(),
    "requires grad": X.clone().requires_grad_(),
    "huge": X * 1e30,
    "tiny": X * 1e-30,
    "NumPy": X.numpy(),
    "a list": X.tolist(),
    "None": None,
    "text": "0.5",
}


@SAID
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_an_error_that_names_it_or_has_a_defined_result(name, bad):
    result = outcome(name, BAD[bad])
    assert not is_silent(name, BAD[bad], result)


@pytest.mark.parametrize(
    "name", sorted(ENTRANCES.keys() - {"batches"})
)  # which hands on what it is given
@pytest.mark.parametrize("bad", ["NaN", "infinity", "no rows", "no columns", "text", "None"])
def test_values_are_checked_where_data_enter(name, bad):
    assert isinstance(outcome(name, BAD[bad]), (TypeError, ValueError))


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("bad", ["integers", "bools", "complex", "NumPy", "a list", "text", "None"])
def test_a_step_takes_floating_tensors_alone(name, bad):
    assert isinstance(outcome(name, BAD[bad]), TypeError)


@pytest.mark.parametrize("name", STEPS)
def test_nan_is_not_swallowed_inside_a_step(name):
    counts = {  # where it is not active, as documented, or refused
        "activation_frequency",
        "l0",
        "dead_latents",
        "dense_latents",
        "FrequencyMeter",
        "match_factors",
    }
    result = outcome(name, BAD["NaN"])
    assert isinstance(result, ValueError) or not finite(result) or name in counts


@pytest.mark.parametrize("name", ["train", "train_ensemble", "train_at_frequency", "evaluate"])
@pytest.mark.parametrize("x", [X.double(), X.half(), X.to("meta")], ids=["double", "half", "meta"])
def test_rows_are_in_the_dtype_and_on_the_device_of_the_model(name, x):
    error = outcome(name, x)
    assert isinstance(error, ValueError)
    assert re.search(
        r"x must be as the model is, torch.float32 on cpu, got .*: use x\.to", str(error)
    )


def test_under_autocast_rows_may_have_another_dtype():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert finite(train(model(), X.bfloat16(), steps=2).error)


@pytest.mark.parametrize("name", sorted(TAKES_RHO))
@pytest.mark.parametrize(
    "rho",
    [
        0,
        1,
        -0.1,
        1.5,
        math.nan,
        math.inf,
        True,
        None,
        "0.2",
        0.2j,
        torch.tensor([0.2, 1.0]),
    ],
    ids=repr,
)
def test_rho_out_of_range_is_refused(name, rho):
    error = outcome(name, X, rho)
    assert isinstance(error, (TypeError, ValueError))
    assert re.search(r"\brho\b", str(error))


@pytest.mark.parametrize("name", ["bernoulli_kl", "bernoulli_kl_with_logits", "frequency_penalty"])
@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_rho_whose_inverse_overflows_is_refused(name, kind):
    assert "rho must lie strictly between 0 and 1" in str(outcome(name, X, kind(1e-42)))


@pytest.mark.parametrize("name", sorted(TAKES_RHO))
def test_numpy_numbers_are_numbers(name):
    expected = outcome(name, X, 0.25)
    assert not isinstance(expected, Exception)
    given_numpy = outcome(name, X, np.float64(0.25))
    for one, other in zip(*map(as_tuple, (expected, given_numpy)), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


VALUES = st.one_of(
    st.floats(-2, 2, width=16),
    st.sampled_from([0.0, -0.0, 1.0, 1e30, -1e30, 1e-30, 65504.0]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)
DTYPES = st.sampled_from(
    [torch.float32] * 6
    + [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
RHOS = st.one_of(
    st.floats(0.01, 0.99),
    st.sampled_from([0.0, 1.0, -1.0, 1e-40, 1 - 1e-9, math.nan, math.inf, None, "0.2", True, 1j]),
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=3).map(torch.tensor),
)


@st.composite
def tensors(draw):
    shape = draw(st.one_of(st.just((8, UNITS)), st.lists(st.integers(0, 4), max_size=4).map(tuple)))
    kinds = draw(st.lists(VALUES, min_size=1, max_size=24))
    values = torch.tensor(kinds, dtype=torch.float64)
    filled = values.repeat(-(-math.prod(shape) // len(values)))[: math.prod(shape)]
    if draw(st.booleans()):
        filled = filled.nan_to_num(0.5, 1.0, -1.0)
    if draw(st.booleans()):  # rows that differ, without which most functions are done at once
        noise = torch.rand(filled.shape, generator=torch.Generator().manual_seed(0))
        filled = filled + noise
    tensor = filled.reshape(shape).to(draw(DTYPES))
    return tensor.requires_grad_() if tensor.is_floating_point() and draw(st.booleans()) else tensor


def fuzz(name, x, rho):
    with warnings.catch_warnings():
        for message in ("members are not finite", "encountered", "Casting complex"):
            warnings.filterwarnings("ignore", f".*{message}", Warning)
        result = outcome(name, x, rho)
    assert not is_silent(name, x, result)


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=300, **QUIET)
@given(st.sampled_from(sorted(EVERY)), tensors(), RHOS)
def test_fuzzed(name, x, rho):
    fuzz(name, x, rho)


@pytest.mark.nightly
@settings(max_examples=10_000, **QUIET)
@given(st.sampled_from(sorted(EVERY)), tensors(), RHOS)
def test_fuzzed_at_length(name, x, rho):
    fuzz(name, x, rho)
