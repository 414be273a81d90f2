"""The benchmarks run, at sizes that say nothing about speed."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def load(monkeypatch, tmp_path):
    """A benchmark by name, which writes its table to a folder that is thrown away."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)

    def load(name):
        monkeypatch.setattr(importlib.import_module("_report"), "RESULTS", tmp_path)
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if (
            getattr(sys.modules[name], "__file__", None)
            and Path(sys.modules[name].__file__).parent == FOLDER
        ):
            del sys.modules[name]


def test_ensembles(load, monkeypatch, tmp_path):
    ensembles = load("ensembles")
    monkeypatch.setattr(ensembles, "MODELS", (2,))
    ensembles.main(1, CPU, work=4, single=2)
    text = (tmp_path / "ensembles.md").read_text()
    assert "| 2 models, stacked |" in text
    assert str(FOLDER.parent) not in text


def test_one_step(load, tmp_path):
    load("one_step").main(1, CPU, steps=2)
    assert "with frequency_penalty" in (tmp_path / "one_step.md").read_text()


def test_scaling(load, monkeypatch, tmp_path):
    scaling = load("scaling")
    monkeypatch.setattr(scaling, "FACTORS", {"models": (1, 2), "batch": (8,), "width": (4,)})
    monkeypatch.setattr(scaling, "MODELS", 1)
    monkeypatch.setattr(scaling, "BATCH", 8)
    monkeypatch.setattr(scaling, "WIDTH", 4)
    monkeypatch.setattr(scaling, "WORK", 1)
    scaling.main(1, CPU)
    assert "models = 2" in (tmp_path / "scaling.md").read_text()


def test_one_hidden_layer(load, monkeypatch, tmp_path):
    layer = load("one_hidden_layer")
    monkeypatch.setattr(layer, "SIZES", {(4, 8): 1})
    monkeypatch.setattr(layer, "BATCH", 16)
    monkeypatch.setattr(layer, "importable", dict)
    layer.main(1, CPU)
    assert "by hand, autograd" in (tmp_path / "one_hidden_layer.md").read_text()


def test_overcomplete_is_imported_without_torchvision_and_nothing_else_is(
    load, monkeypatch, tmp_path
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for module in ("overcomplete.sae", "sae_lens"):  # as if they were installed
        package, _, child = module.partition(".")
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("from torchvision import transforms\n")
        if child:
            (tmp_path / package / f"{child}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = load("_peers").importable()
    for name in ("overcomplete", "overcomplete.sae"):
        del sys.modules[name]
    assert set(found) == {"overcomplete", "overcomplete, lean"}
    assert "torchvision" not in sys.modules


def test_accumulation(load, monkeypatch, tmp_path):
    accumulation = load("accumulation")
    monkeypatch.setattr(accumulation, "ROWS", 8)
    accumulation.main(1, CPU, repeats=1)
    assert "20-320-160-16" in (tmp_path / "accumulation.md").read_text()


def test_running_frequency(load, monkeypatch, tmp_path):
    running = load("running_frequency")
    monkeypatch.setattr(running, "BATCHES", (8,))
    running.main(seeds=1, steps=2)
    assert "Chicago, 0.2, 8, 0.001" in (tmp_path / "running_frequency.md").read_text()
