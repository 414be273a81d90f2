"""What people try first, and get wrong: each is met by a sentence that says what to do."""

import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from saetools import (
    FrequencyMultipliers,
    SparseAutoencoder,
    evaluate,
    frequency_penalty,
    fvu,
    learn_shift_hold,
    sparse_mixture,
    train,
    train_at_frequency,
    train_ensemble,
    train_layer_at_frequency,
)

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
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_met_by_what_to_do(name):
    mistake, says = MISTAKES[name]
    with pytest.raises((TypeError, ValueError), match=re.escape(says)):
        mistake()


@pytest.mark.parametrize("rho", [0, -3, 100, 200])
def test_what_is_no_percentage_is_not_taken_for_one(rho):
    with pytest.raises(ValueError, match=f"strictly between 0 and 1, got {rho}$"):
        frequency_penalty(X, rho=rho)


def test_latents_in_place_of_pre_activations_are_warned_of():
    with pytest.warns(UserWarning, match="before the ReLU, such as output.pre_activations"):
        frequency_penalty(model()(X).latents, rho=0.2)


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
