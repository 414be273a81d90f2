"""What people try first, and get wrong: each is met by a sentence that says what to do."""

import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from saetools import (
    BatchTopK,
    Capture,
    FrequencyMultipliers,
    FrequencyThreshold,
    JumpReLU,
    Output,
    RunningFrequency,
    SparseAutoencoder,
    backward_in_parts,
    chicago_context,
    dead_latents,
    evaluate,
    frequency_penalty,
    fvu,
    initialise_for_frequency_,
    learn_shift_hold,
    pool_rows,
    restart_rows_,
    revive_,
    save,
    soft_frequency,
    sparse_mixture,
    step_frequency,
    straight_through_frequency,
    train,
    train_at_frequency,
    train_ensemble,
    train_layer_at_frequency,
)
from saetools.gradients import gradient_reach, trace_gradients
from saetools.reuse.sklearn import SparseAutoencoderTransformer

X = torch.rand(64, 20, generator=torch.Generator().manual_seed(0))
FRAME, ARRAY = pd.DataFrame(X.numpy()), X.numpy()
FROM_FRAME = 'x must be a torch.Tensor, got DataFrame: use torch.tensor(x.to_numpy("float32"))'
FROM_ARRAY = "x must be a torch.Tensor, got ndarray: use torch.as_tensor(x, dtype=torch.float32)"
ROWS_ALONE = "use DataLoader(rows, ...) with a tensor of rows, without TensorDataset or labels"
PERCENT = "rho must lie strictly between 0 and 1, got 20: 20 % is rho=0.2"
NOT_YET_CALLED = "give one that is not yet called, such as lambda output: frequency_penalty("
RETURN_OUTPUT = "let it return saetools.Output(reconstruction, latents, pre_activations), or "


def model():
    return SparseAutoencoder(seed=0)


def layer():
    """A model of one's own, which returns a tensor."""
    return nn.Sequential(nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 20))


def trained(x, penalty=None, **options):
    return train(model(), x, penalty, steps=2, **options)


def called():
    return frequency_penalty(torch.randn(64, 4), rho=0.2)


def own(x=X, loss=None, **options):
    """A training of a layer of one's own model."""
    options |= {} if loss is None else {"loss": loss}
    return train_layer_at_frequency(layer(), x, layer="0", rho=0.2, steps=7, **options)


def traced(model, *optimizer):
    with trace_gradients(model, *optimizer):
        pass


def without_gradients():
    with torch.no_grad():
        trained(X)


def used_twice():
    penalty = FrequencyMultipliers(rho=0.2)
    for width in 4, 8:
        train(SparseAutoencoder((20, width)), X, penalty, steps=2)


def compiled():
    """A model where torch.compile has it."""
    wrapper = nn.Module()
    wrapper._orig_mod = model()
    return wrapper


def wide():
    """What returns a reconstruction that would be broadcast against the batch."""
    return nn.Sequential(nn.Linear(20, 1), Wrap())


class Wrap(nn.Module):
    def forward(self, z):
        return Output(z, z, z)


MISTAKES = {
    "pairs": (lambda: trained(DataLoader(TensorDataset(X, X[:, 0]), 8)), ROWS_ALONE),
    "a TensorDataset of rows": (lambda: trained(DataLoader(TensorDataset(X), 8)), ROWS_ALONE),
    "dicts": (lambda: trained([{"rows": X}]), "got a dict of 1: use DataLoader(rows, ...)"),
    "frame": (lambda: trained(FRAME), FROM_FRAME),
    "frame, recipe": (lambda: train_at_frequency(model(), FRAME, rho=0.2), FROM_FRAME),
    "frame, own model": (
        lambda: train_layer_at_frequency(layer(), FRAME, layer="0", rho=0.2),
        FROM_FRAME,
    ),
    "frame, measured": (lambda: evaluate(model(), FRAME), FROM_FRAME),
    "array": (lambda: trained(ARRAY), FROM_ARRAY),
    "array, recipe": (lambda: train_at_frequency(model(), ARRAY, rho=0.2), FROM_ARRAY),
    "array, own model": (
        lambda: train_layer_at_frequency(layer(), ARRAY, layer="0", rho=0.2),
        FROM_ARRAY,
    ),
    "percent": (lambda: train_at_frequency(model(), X, rho=20), PERCENT),
    "percent, penalty": (lambda: frequency_penalty(X, rho=20), PERCENT),
    "percent, a tensor": (lambda: frequency_penalty(X, rho=torch.tensor(20.0)), "20 % is rho=0.2"),
    "percent, multipliers": (lambda: FrequencyMultipliers(rho=20), PERCENT),
    "sizes": (lambda: SparseAutoencoder(20, 4), "sizes must be one sequence, got 20: say (20, 4)"),
    "one size": (lambda: SparseAutoencoder(20), "got 20: say (20, 4)"),
    "text as seed": (lambda: SparseAutoencoder(seed="0"), "seed must be an int, got '0'"),
    "text as seed, rows": (lambda: trained(X, seed="0"), "seed must be an int, got '0'"),
    "text as seed, data": (lambda: sparse_mixture(seed="0"), "seed must be an int, got '0'"),
    "no Output": (
        lambda: train(layer(), X, steps=2),
        f"got Tensor, without reconstruction: {RETURN_OUTPUT}pass a loss= of your own",
    ),
    "no Output, measured": (lambda: evaluate(layer(), X), f"{RETURN_OUTPUT}measure it with fvu"),
    "no Output, recipe": (
        lambda: train_at_frequency(layer(), X, rho=0.2),
        "must be a SparseAutoencoder, got Sequential: see train_layer_at_frequency",
    ),
    "called": (lambda: trained(X, called()), NOT_YET_CALLED),
    "called, many": (lambda: train_ensemble([model()], X, called(), steps=2), NOT_YET_CALLED),
    "called, phases": (lambda: learn_shift_hold(model(), X, called(), rho=0.2), NOT_YET_CALLED),
    "the whole Output": (
        lambda: trained(X, lambda output: frequency_penalty(output, rho=0.2)),
        "pre_activations must be a torch.Tensor, got Output: give its pre_activations",
    ),
    "the whole Output, fvu": (lambda: fvu(model()(X), X), "got Output: give its reconstruction"),
    "one model": (lambda: train_ensemble(model(), X, steps=2), "say [model]"),
    # An engineer with a model of their own.
    "trace, a loss": (lambda: traced(X.mean()), "model must be an nn.Module, got Tensor"),
    "trace, parameters": (lambda: traced(layer().parameters()), "an nn.Module, got generator"),
    "trace, a name": (
        lambda: traced(layer(), "adam"),
        "an optimizer of torch, or several, got str",
    ),
    "trace, a class": (lambda: traced(layer(), torch.optim.Adam), "or several, got type"),
    "reach, the model first": (
        lambda: gradient_reach(layer(), {"penalty": called()}),
        'terms must be a dict, got Sequential: say gradient_reach({"penalty": penalty}, model)',
    ),
    "a tuple": (lambda: frequency_penalty((X, X), rho=0.2), "got tuple: give one of its 2 items"),
    "a dict": (lambda: frequency_penalty({"pre": X}, rho=0.2), "got dict: give one of its 1 items"),
    "rho, a list": (
        lambda: frequency_penalty(X, rho=[0.2] * 20),
        "got list: use torch.as_tensor(rho, dtype=torch.float32)",
    ),
    "rho, an array": (
        lambda: frequency_penalty(X, rho=ARRAY[0]),
        "got ndarray: use torch.as_tensor(rho",
    ),
    "temperature per unit": (
        lambda: straight_through_frequency(X, torch.ones(3)),
        "temperature must broadcast against pre_activations, shape (64, 20), got shape (3,)",
    ),
    "weight per unit": (
        lambda: frequency_penalty(X, rho=0.2, weight=torch.ones(3)),
        "weight must broadcast against the units, shape (20,), got shape (3,)",
    ),
    "threshold per unit": (
        lambda: step_frequency(X, 0.1, threshold=torch.ones(3)),
        "threshold must broadcast against pre_activations",
    ),
    "threshold, text": (
        lambda: step_frequency(X, 0.1, threshold="0"),
        "threshold must be a number",
    ),
    "batch_mean, a class": (
        lambda: frequency_penalty(X, rho=0.2, batch_mean=RunningFrequency),
        "batch_mean must be a function, got a class: make one, RunningFrequency(...)",
    ),
    # A student who types from the notebooks.
    "x and model": (lambda: train(X, model(), steps=2), "model must be an nn.Module, got Tensor"),
    "measured, a list": (lambda: evaluate([model()], X), "model must be an nn.Module, got list"),
    "measured, a class": (lambda: evaluate(SparseAutoencoder, X), "an nn.Module, got type"),
    "all data": (lambda: trained(chicago_context()), "got ChicagoContext: give its train"),
    "all data, measured": (lambda: evaluate(model(), sparse_mixture(9)), "give its train"),
    "called with an array": (lambda: model()(ARRAY), FROM_ARRAY),
    "called with integers": (lambda: model()(X.long()), "got torch.int64: use x.float()"),
    "a class as output": (
        lambda: SparseAutoencoder((20, 4), nn.Identity),
        "output must be a function, got a class: make one, Identity(...)",
    ),
    "a class as activation": (
        lambda: SparseAutoencoder((20, 4), activation=nn.ReLU),
        "activation must be a function, got a class: make one, ReLU(...)",
    ),
    "a step by name": (
        lambda: soft_frequency(X, 0.3, step="sigmoid"),
        "step must be a function, got 'sigmoid': give one, such as torch.sigmoid",
    ),
    "a range, one number": (
        lambda: trained(X, value_range=1),
        "value_range must be (low, high) or",
    ),
    "a range, reversed": (lambda: trained(X, value_range=(1, 0)), "or None, got (1, 0)"),
    "progress": (lambda: trained(X, progress="yes"), "progress must be True or False, got str"),
    "no return": (lambda: trained(X, lambda output: None), "got NoneType: end it with a return"),
    "item": (
        lambda: trained(X, lambda output: called().item()),
        "penalty must return a tensor, got float: a number has left the graph",
    ),
    "a scheduler without return": (
        lambda: trained(X, scheduler=lambda adam: None),
        "what scheduler returns must be a scheduler of torch, got NoneType",
    ),
    "a loss by name": (
        lambda: trained(X, loss="mse"),
        "got 'mse': give one, such as lambda model,",
    ),
    "a loss of torch": (
        lambda: trained(X, loss=nn.MSELoss()),
        "loss must take the model and a batch, got MSELoss(): say lambda model, batch: (mse_loss(",
    ),
    "another function of torch": (
        lambda: own(loss=nn.functional.mse_loss),
        "say lambda model, batch: mse_loss(model(batch), batch)",
    ),
    "multipliers, a class": (lambda: trained(X, FrequencyMultipliers), "FrequencyMultipliers(...)"),
    "multipliers, a tensor": (
        lambda: FrequencyMultipliers(rho=0.2)(X),
        "output must have pre_activations, as an Output has, got Tensor",
    ),
    "multipliers, again": (used_twice, "units must stay those of the first batch, (4,), got (8,)"),
    "pre-activations as frequencies": (
        lambda: dead_latents(X - 0.5),
        "rho_hat must hold frequencies in [0, 1], got -",
    ),
    "counts as frequencies": (
        lambda: dead_latents(torch.tensor([0.0, 3.0])),
        "rho_hat must hold frequencies in [0, 1], got 3",
    ),
    "a list of lists": (
        lambda: train_ensemble([[model()]], X, steps=2),
        "models[0] must be a SparseAutoencoder, got list: say list(models)",
    ),
    "a ModuleList": (
        lambda: train_at_frequency(nn.ModuleList([model()]), X, rho=0.2),
        "got ModuleList: say list(models)",
    ),
    "units by number": (
        lambda: revive_(nn.Linear(20, 4), [0], X, rho=0.2),
        "units must be bools of shape (4,), got list",
    ),
    "rows by number": (
        lambda: restart_rows_(nn.Linear(20, 4).weight, 0, X[0]),
        "rows must be bools over the first dims of parameter, (4, 20), got int",
    ),
    "a layer for its weight": (
        lambda: restart_rows_(nn.Linear(20, 4), X[:, 0] > 0, X),
        "parameter must be a torch.Tensor, such as layer.weight, got Linear",
    ),
    "an optimizer by name": (
        lambda: revive_(nn.Linear(20, 4), torch.ones(4) > 0, X, rho=0.2, optimizer="adam"),
        "optimizer must be an optimizer of torch, got str",
    ),
    # A data scientist.
    "not fitted": (lambda: SparseAutoencoderTransformer().transform(ARRAY), "is not fitted yet"),
    "rho, a list, estimator": (
        lambda: SparseAutoencoderTransformer(rho=[0.2] * 8).fit(ARRAY),
        "got list: use torch.as_tensor(rho, dtype=torch.float32)",
    ),
    "sparse": (
        lambda: trained(X.to_sparse()),
        "x must be dense, got torch.sparse_coo: use x.to_de",
    ),
    "a sparse matrix": (lambda: trained(csr_matrix(ARRAY)), "torch.as_tensor(x.toarray(), dtype"),
    # A researcher.
    "measured, a loader": (
        lambda: evaluate(model(), DataLoader(X, 8)),
        "got DataLoader: join its batches of rows, torch.cat(list(x))",
    ),
    "measured, batches": (lambda: evaluate(model(), [X, X]), "torch.cat(list(x))"),
    "a dict of rows": (lambda: trained({"x": X}), "got dict: give one of its 1 items"),
    "wrapped": (
        lambda: train_at_frequency(nn.DataParallel(model()), X, rho=0.2),
        "models[0] must be a SparseAutoencoder, got DataParallel: give its .module",
    ),
    "wrapped, start": (
        lambda: initialise_for_frequency_(nn.DataParallel(model()), X, rho=0.2),
        "got DataParallel: give its .module",
    ),
    "compiled": (
        lambda: train_ensemble([compiled()], X, steps=2),
        "got Module: give its ._orig_mod",
    ),
    "wrapped, saved": (lambda: save(nn.DataParallel(model()), "never"), "give its .module"),
    "frozen": (
        lambda: train(model().requires_grad_(False), X, steps=2),
        "model must have a parameter that requires a gradient, got none",
    ),
    "without gradients": (without_gradients, "gradients are switched off: train outside of"),
    "float16": (
        lambda: train(model().half(), X.half(), steps=9),
        "Adam overflows on weights in float16: keep them in float32, under torch.autocast",
    ),
    "broadcast": (
        lambda: train(wide(), X, steps=2),
        "reconstruction must have the shape of the batch, (64, 20), got (64, 1)",
    ),
    "own loss, a pair": (
        lambda: own(loss=lambda model, batch: (model(batch).mean(), None)),
        "loss must return a tensor, got tuple: give one of its 2 items",
    ),
    "own loss, item": (
        lambda: own(loss=lambda model, batch: model(batch).mean().item()),
        "loss must return a tensor, got float: a number has left the graph",
    ),
    "own loss, unreduced": (
        lambda: own(loss=lambda model, batch: model(batch).mean(1)),
        "loss must return a tensor of shape (), the batch's mean error alone, got shape (64,)",
    ),
    "mask, a tensor": (lambda: own(mask=X > 0), "mask must be a function, got tensor("),
    "rows for parts": (
        lambda: backward_in_parts(model(), X, lambda part, batch_mean: part.sum()),
        "parts must be parts of a batch, got a tensor of rows: use x.split(rows)",
    ),
    "part's loss, item": (
        lambda: backward_in_parts(
            model(), [X], lambda part, batch_mean: batch_mean(part.mean(), 64).item()
        ),
        "loss must return a tensor, got float: a number has left the graph",
    ),
    "channels first": (
        lambda: FrequencyThreshold(16, 0.2)(torch.rand(8, 16, 4, 4)),
        "put the channels last, z.movedim(1, -1)",
    ),
    "other width": (
        lambda: JumpReLU(8)(X),
        "must have 8 latents, its last dim, got shape (64, 20)",
    ),
    "too large a k": (lambda: BatchTopK(99)(X), "at least k = 99 latents, got shape (64, 20)"),
}


MET_BY = (TypeError, ValueError, RuntimeError, FloatingPointError)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_met_by_what_to_do(name):
    mistake, says = MISTAKES[name]
    with pytest.raises(MET_BY, match=re.escape(says)):
        mistake()


@pytest.mark.parametrize("rho", [0, -3, 100, 200])
def test_what_is_no_percentage_is_not_taken_for_one(rho):
    with pytest.raises(ValueError, match=f"strictly between 0 and 1, got {rho}$"):
        frequency_penalty(X, rho=rho)


def test_latents_in_place_of_pre_activations_are_warned_of():
    with pytest.warns(UserWarning, match="before the ReLU, such as output.pre_activations"):
        frequency_penalty(model()(X).latents, rho=0.2)


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Hardtanh(0, 1), lambda z: z.clamp(min=0)])
def test_what_is_cut_off_at_0_is_warned_of(activation):
    with pytest.warns(UserWarning, match="behind a ReLU: many are 0, and none is below"):
        frequency_penalty(activation(nn.Linear(20, 4)(X)), rho=0.2)


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Softplus(), nn.Softmax(-1)])
def test_what_is_always_above_0_is_warned_of(activation):
    with pytest.warns(UserWarning, match="no unit is ever off: .* before the activation"):
        frequency_penalty(activation(nn.Linear(20, 4)(X)), rho=0.2)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.LayerNorm(4), lambda z: z.clamp(-1, 1)])
def test_what_may_be_on_either_side_of_0_is_not(activation):
    frequency_penalty(activation(nn.Linear(20, 4)(X)), rho=0.2)


IMAGES = torch.rand(16, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm2d(6), nn.GroupNorm(2, 6)])
def test_channels_that_come_first_are_warned_of(norm):
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), norm)
    captured = Capture(layers, "1")
    z = layers(IMAGES)
    for given in z, captured["1"]:
        with pytest.warns(UserWarning, match=r"units_dim=1\), or dim=\(0, 2, 3\)"):
            frequency_penalty(given, rho=0.2)
    expected = frequency_penalty(z, rho=0.2, dim=(0, 2, 3))
    for given in z.movedim(1, -1), pool_rows(z, units_dim=1):
        torch.testing.assert_close(frequency_penalty(given, rho=0.2), expected)


def test_a_trace_is_told_with_the_error_that_ends_its_block():
    network = layer()
    with pytest.raises(RuntimeError) as raised, trace_gradients(network):
        (network[0](X) > 0).float().mean().backward()
    [note] = raised.value.__notes__
    assert note.startswith("trace_gradients:\n1. cut at Tensor.gt, ")


def test_a_threshold_may_be_given_double_precision():
    threshold = FrequencyThreshold(20, 0.2)
    assert threshold(X.double()).dtype == torch.float64
    assert threshold.theta.dtype == torch.float32


def test_one_model_needs_no_list():
    assert train_at_frequency(model(), X, rho=0.2, steps=7, tolerance=0.05).error.shape == (7,)


@pytest.mark.parametrize("wrap", [iter, tuple])
def test_pairs_are_handed_to_a_loss_of_ones_own_as_they_are(wrap):
    def loss(model, pair):
        output = model(pair[0])
        return (output.reconstruction - pair[0]).square().mean() + 0 * pair[1].sum(), output

    pairs = wrap([(X, X[:, 0])] * 2)
    assert trained(pairs, lambda output: output.latents.mean(), loss=loss).error.shape == (2,)


USES = {
    "matplotlib, plots": "import saetools.tutorial.plots",
    "matplotlib, plots ": "from saetools import History\nHistory(x[0], x[0], []).plot()",
    "scipy, notebooks": "import saetools.tutorial.matching",
    "scipy, notebooks ": "from saetools.tutorial.measures import paired_mean\npaired_mean(x)",
    "scikit-learn, sklearn": "import saetools.reuse.sklearn",
    "tqdm, notebooks": (
        "from saetools import SparseAutoencoder, train\n"
        "train(SparseAutoencoder((3, 2)), x, steps=2, progress=True)"
    ),
    "safetensors, saving": (
        "from saetools import SparseAutoencoder, save\nsave(SparseAutoencoder((3, 2)), 'never')"
    ),
}


@pytest.mark.slow
def test_a_missing_package_names_what_to_install():
    """In one process, which has none of them, as an import cannot be undone in this one."""
    hidden = ["matplotlib", "scipy", "sklearn", "tqdm", "safetensors"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n"
        "import torch; x = torch.rand(5, 3)\n"
        f"for name, use in {USES}.items():\n"
        "    try:\n        exec(use)\n"
        "    except ImportError as error:\n        print(f'{name}: {error}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said == {
        name: f"{package} is missing: python -m pip install {package}, or, in a clone of saetools, "
        f'python -m pip install ".[{extra}]"'
        for name in USES
        for package, extra in [name.strip().split(", ")]
    }
