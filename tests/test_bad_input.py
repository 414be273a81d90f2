"""Bad input gives an error that names what is wrong, or a defined result; never a silent NaN.

Where data enter (`ENTRANCES`), values are checked. Inside a step (`STEPS`) types and shapes are,
and NaN in gives NaN out, where it cannot be overlooked. `BAD` has a row per bad input and `BAD_RHO`
one per bad target; each goes to every function, and a test names all that were not as they should.
"""

import math
import re
import warnings
from typing import NamedTuple

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
    learn_shift_hold,
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
from saetools.reuse.sklearn import SparseAutoencoderTransformer
from saetools.tutorial.matching import match_factors

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
    def loss(part, batch_mean):
        return frequency_penalty(part, rho=rho, batch_mean=batch_mean)

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
    "learn_shift_hold": lambda x, rho: (
        learn_shift_hold(
            [model()], x, None, rho=rho, steps=4, value_range=None, tolerance=BIAS_TOLERANCE
        ).error
    ),
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
TAKES_RHO = {  # and needs it
    "train_at_frequency",
    "learn_shift_hold",
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
# Where NaN is not active, as documented.
COUNTS = {
    "activation_frequency",
    "l0",
    "dead_latents",
    "dense_latents",
    "FrequencyMeter",
    "match_factors",
}
TRAINS = {"train", "train_ensemble", "train_at_frequency", "learn_shift_hold", "evaluate"}
LOSES_MEMBERS = {"train_ensemble", "train_at_frequency", "learn_shift_hold"}  # and warns of it
NAMES = re.compile(r"\b(x|inputs|pre_activations|rho_hat|logits|mean|reconstruction|rho)\b")


class Bad(NamedTuple):
    """Rows, and what must become of them: by default an error that names them, or a result."""

    rows: object
    entrance: str = ""  # "refused": with TypeError or ValueError
    step: str = ""  # "TypeError", or "NaN" out
    model: str = ""  # "refused" where a model of float32 on the CPU is trained or measured on them


def with_value(value):
    return X.clone().index_fill_(0, torch.tensor([3]), value)


BAD = {
    "NaN": Bad(with_value(math.nan), entrance="refused", step="NaN"),
    "infinity": Bad(with_value(math.inf), entrance="refused"),
    "no rows": Bad(X[:0], entrance="refused"),
    "no columns": Bad(X[:, :0], entrance="refused"),
    "one row": Bad(X[:1]),
    "equal rows": Bad(X[:1].expand(12, UNITS)),
    "a constant column": Bad(torch.cat([X[:, :-1], torch.ones(12, 1)], 1)),
    "integers": Bad((9 * X).long(), step="TypeError"),
    "bools": Bad(X > 0.5, step="TypeError"),
    "complex": Bad(X.to(torch.complex64), step="TypeError"),
    "no dims": Bad(torch.tensor(0.5)),
    "one dim": Bad(X[:, 0]),
    "three dims": Bad(X[None].expand(2, -1, -1)),
    "half precision": Bad(X.half(), model="refused"),
    "double precision": Bad(X.double(), model="refused"),
    "requires grad": Bad(X.clone().requires_grad_()),
    "huge": Bad(X * 1e30),
    "tiny": Bad(X * 1e-30),
    "NumPy": Bad(X.numpy(), step="TypeError"),
    "a list": Bad(X.tolist(), step="TypeError"),
    "None": Bad(None, entrance="refused", step="TypeError"),
    "text": Bad("0.5", entrance="refused", step="TypeError"),
}
BAD_RHO = [0, 1, -0.1, 1.5, math.nan, math.inf, True, None, "0.2", 0.2j, torch.tensor([0.2, 1.0])]
OVERFLOWING = [1e-42, torch.tensor(1e-42)]  # their inverses do
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
            error.add_note(f"from {name}, given {x!r} and rho = {rho!r}")
            raise
        return error


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def finite(result):
    return all(bool(torch.as_tensor(part).isfinite().all()) for part in as_tuple(result))


def is_silent(name, x, result):
    """Whether something that is not finite came of finite input, and nothing said so."""
    if isinstance(result, Exception) or finite(result):
        return False
    if not torch.as_tensor(x).isfinite().all():
        return False
    if name == "bernoulli_kl":  # infinite at 0 and 1, as it should be
        return bool(result.isnan().any())
    return name not in LOSES_MEMBERS


def fault(name, bad):
    """What is wrong with a function's answer to a row of `BAD`, or nothing."""
    result = outcome(name, bad.rows)
    wanted = bad.step if name in STEPS else bad.entrance
    if name == "batches":  # hands on what it is given
        wanted = ""
    if is_silent(name, bad.rows, result):
        return f"{result} without a word"
    if wanted == "refused" and not isinstance(result, (TypeError, ValueError)):
        return f"not refused: {result!r}"
    if wanted == "TypeError" and not isinstance(result, TypeError):
        return f"no TypeError: {result!r}"
    if wanted == "NaN" and not isinstance(result, ValueError) and finite(result):
        return "" if name in COUNTS else f"NaN was swallowed: {result}"
    if bad.model == "refused" and name in TRAINS and not says_how_to_convert(result):
        return f"not refused as another dtype: {result!r}"
    return ""


def says_how_to_convert(error):
    words = r"x must be as the model is, torch.float32 on cpu, got .*: use x\.to"
    return isinstance(error, ValueError) and re.search(words, str(error))


@SAID
@pytest.mark.parametrize("name", EVERY)
def test_bad_rows_are_an_error_that_names_them_or_have_a_defined_result(name):
    found = {case: fault(name, bad) for case, bad in BAD.items()}
    assert {case: words for case, words in found.items() if words} == {}


@pytest.mark.parametrize("name", sorted(TRAINS))
def test_rows_are_on_the_device_of_the_model(name):
    assert says_how_to_convert(outcome(name, X.to("meta")))


def test_under_autocast_rows_may_have_another_dtype():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert finite(train(model(), X.bfloat16(), steps=2).error)


@pytest.mark.parametrize("name", sorted(TAKES_RHO))
def test_a_rho_out_of_range_is_refused_and_one_from_numpy_is_a_number(name):
    errors = {repr(rho): outcome(name, X, rho) for rho in BAD_RHO}
    refused = {
        rho: isinstance(error, (TypeError, ValueError)) and bool(re.search(r"\brho\b", str(error)))
        for rho, error in errors.items()
    }
    assert all(refused.values()), refused
    expected, from_numpy = outcome(name, X, 0.25), outcome(name, X, np.float64(0.25))
    assert not isinstance(expected, Exception)
    for one, other in zip(as_tuple(expected), as_tuple(from_numpy), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


@pytest.mark.parametrize("name", ["bernoulli_kl", "bernoulli_kl_with_logits", "frequency_penalty"])
def test_rho_whose_inverse_overflows_is_refused(name):
    for rho in OVERFLOWING:
        assert "rho must lie strictly between 0 and 1" in str(outcome(name, X, rho))


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


HARMLESS = ("members are not finite", "encountered", "Casting complex", "seem to be", "below 5")


def fuzz(name, x, rho):
    with warnings.catch_warnings():
        for message in (
            "members are not finite",
            "encountered",
            "Casting complex",
            "seem to be",
            "row\\(s\\)",
        ):
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
