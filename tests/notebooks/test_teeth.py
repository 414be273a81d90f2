"""A notebook that cannot fail proves nothing: break the package, and a cell must fail.

Each break is a copy of the package with some lines appended to one of its files, where they
define a name anew; the copy is put in front of the real package on the path of the notebook's
kernel. nbval then compares as it always does, up to the first cell that fails.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest
from notebook_tools import NOTEBOOKS, ROOT

GRADIENT_IN_THE_POST = """
_posted = posted_penalty
def posted_penalty(encoded, **options):
    return _posted(encoded, **options) + 1e-8 * (encoded - encoded.detach()).sum()
"""
SIGMOID_IN_THE_POST = """
def _with_a_sigmoid(self, *, seed=None):
    SparseAutoencoder.__init__(self, (20, 80, 40, 4), output=torch.sigmoid, seed=seed)
PostedAutoencoder.__init__ = _with_a_sigmoid
"""

# what is broken: (notebook, file, what is appended to it, what the failing cell says)
EARLY = {  # one of the first cells fails: one break for each notebook, in every run
    "the posted penalty has a gradient": (
        "00",
        "tutorial/forum_post.py",
        GRADIENT_IN_THE_POST,
        "requires_grad True",
    ),
    "the posted network has a sigmoid on its output": (
        "01",
        "tutorial/forum_post.py",
        SIGMOID_IN_THE_POST,
        "same reconstruction: False",
    ),
    "the penalty needs no help at its ends": (
        "02",
        "penalties.py",
        """
_unhelped = bernoulli_kl
def bernoulli_kl(rho_hat, *, rho):
    return _unhelped(rho_hat.clamp(0.001, 0.999), rho=rho)
""",
        "no protection",
    ),
    "the straight-through count has the soft count's value": (
        "03",
        "frequency.py",
        "straight_through_frequency = soft_frequency",
        "agrees: False",
    ),
    "smoothing is a clamp": (
        "04",
        "frequency.py",
        """
def smooth(rho_hat, eps=1e-3):
    return rho_hat.clamp(eps, 1 - eps)
""",
        "smoothing: False",
    ),
    "units are shifted, and not scaled": (
        "05",
        "training/start.py",
        """
@torch.no_grad()
def initialise_for_frequency_(model, x, *, rho):
    target_frequency_(model.encoder[-1].bias, model.encode(x), rho)
    return model
""",
        "assert torch.allclose(own, other, atol=0.01)",
    ),
    "training stops after seven steps": (
        "06",
        "training/ensemble.py",
        """
_train_ensemble = train_ensemble
def train_ensemble(*arguments, **options):
    return _train_ensemble(*arguments, **options | {"steps": 7})
train_ensemble.__kwdefaults__ = _train_ensemble.__kwdefaults__
""",
        "the same: False",
    ),
    "the ceiling of phi is 1": (
        "07",
        "tutorial/measures.py",
        """
def phi_ceiling(p, q):
    return torch.ones_like(p * q)
""",
        "phi 0.546, its ceiling 1.000",
    ),
    "the default eps is a fixed one, for rare latents": (
        "08",
        "penalties.py",
        """
def unbiased_eps(rho, rows):
    return 1e-3
""",
        "| 2.29, 0.853",
    ),
    "the penalty has no slope": (
        "09",
        "penalties.py",
        """
_with_a_slope = frequency_penalty
def frequency_penalty(z, **options):
    return _with_a_slope(z, **options).detach() + 0 * z.sum()
""",
        "the package does as the lines above: False",
    ),
}
LATE = {  # a result of training fails
    "the recipe forgets its penalty": (
        "00",
        "training/recipe.py",
        """
def frequency_penalty(z, **_):
    return 0 * z.sum((-2, -1))
""",
        "claimed 0.02 ± 0.02",
    ),
    "the posted penalty has a tiny gradient": (
        "01",
        "tutorial/forum_post.py",
        GRADIENT_IN_THE_POST,
        "gradients that differ",
    ),
    "training goes on after a NaN": (
        "01",
        "training/loop.py",
        """
_train = train
def train(*arguments, **options):
    return _train(*arguments, **options | {"stop_if_not_finite": False})
""",
        "Missing output fields",
    ),
    "the posted network has a sigmoid on its output, later on": (
        "02",
        "tutorial/forum_post.py",
        SIGMOID_IN_THE_POST,
        "dead output units",
    ),
    "the tracer overlooks cuts": (
        "02",
        "gradients/trace.py",
        """
def called_by_library(*_):
    return True
""",
        "zeroed at torch.relu",
    ),
    "the default eps is a fixed one": (
        "04",
        "penalties.py",
        """
def unbiased_eps(rho, rows):
    return 1e-3
""",
        "1.14      1.00           1.14",
    ),
    "the recipe holds, and does not shift": (
        "06",
        "training/recipe.py",
        """
def target_frequency_(*_, **__):
    pass
""",
        "the same: False",
    ),
    "the held multipliers have no sigmoid": (
        "06",
        "tutorial/methods.py",
        """
_started = started
def started(task, seeds):
    models = _started(task, seeds)
    for model in models if len(seeds) > 1 else []:
        model.output = torch.relu
    return models
""",
        "claimed 1.0",
    ),
    "directions are not skewed": (
        "06",
        "initialise.py",
        """
def skewed_units_(layer, inputs):
    return layer
""",
        "the same: False",
    ),
    "training stops after seven steps, later on": (
        "07",
        "training/ensemble.py",
        """
_train_ensemble = train_ensemble
def train_ensemble(*arguments, **options):
    return _train_ensemble(*arguments, **options | {"steps": 7})
train_ensemble.__kwdefaults__ = _train_ensemble.__kwdefaults__
""",
        "claimed",
    ),
    "thresholds move the wrong way": (
        "08",
        "activations/threshold.py",
        """
_move = FrequencyThreshold._move
def _wrong_way(self, sums):
    before = self.theta.clone()
    _move(self, sums)
    self.theta.copy_(2 * before - self.theta)
FrequencyThreshold._move = _wrong_way
""",
        "assert torch.allclose(own.theta, packaged.theta, atol=1e-3), step",
    ),
    "a band has no common threshold": (
        "08",
        "activations/threshold.py",
        """
_with_a_band = FrequencyThreshold.__init__
def _without(self, *arguments, band=None, **options):
    _with_a_band(self, *arguments, **options)
    self.band = band and check_band(band)
FrequencyThreshold.__init__ = _without
""",
        "claimed 0.248 ± 0.010",
    ),
    "a router's margins have no slope": (
        "09",
        "reuse/routing.py",
        """
_margins = top_k_margins
def top_k_margins(logits, k):
    return _margins(logits.detach(), k) + 0 * logits
""",
        "claimed 0, measured",
    ),
    "gates have no penalty": (
        "09",
        "penalties.py",
        """
_for_samples = frequency_penalty
def frequency_penalty(z, *, eps=None, **options):
    return _for_samples(z, **options) if eps is None else 0 * z.sum()
""",
        "claimed 0.25 ± 0.02",
    ),
    "dead codes stay as they are": (
        "09",
        "reuse/reviving.py",
        """
def restart_rows_(parameter, *_):
    return parameter
""",
        "claimed 5 (1 to 9), measured",
    ),
    "gates have no slope": (
        "09",
        "frequency.py",
        """
def straight_through_gate(z, temperature):
    return is_above(z)
""",
        "does not require grad",
    ),
}


def breaks(table, *marks):
    return [pytest.param(*broken, id=what, marks=marks) for what, broken in table.items()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "file", "appended", "says"), breaks(EARLY) + breaks(LATE, pytest.mark.nightly)
)
def test_a_broken_package_fails_a_cell(tmp_path, number, file, appended, says):
    shutil.copytree(ROOT / "saetools", tmp_path / "saetools")
    with (tmp_path / "saetools" / file).open("a", encoding="utf-8") as broken:
        broken.write(f"\n{appended}\n")
    [notebook] = [path for path in NOTEBOOKS if path.name.startswith(number)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", str(notebook)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    assert re.search(r"FAILED notebooks/.*::Cell \d+", done.stdout)
    assert says in done.stdout, done.stdout


def test_each_notebook_has_a_break_in_every_run():
    assert [number for number, *_ in EARLY.values()] == [path.name[:2] for path in NOTEBOOKS]
