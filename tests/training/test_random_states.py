import random

import numpy as np
import pytest
import torch

from saetools.training.checkpoints import GlobalRandomStates

DRAW = {
    "Python": random.random,
    "NumPy": np.random.random,
    "torch": lambda: torch.rand(()).item(),
}


def draws():
    return {name: [draw() for _ in range(3)] for name, draw in DRAW.items()}


def states():
    states = GlobalRandomStates(torch.device("cpu")).state_dict()["states"]
    return states | {"torch": states["torch"].tolist()}


@pytest.mark.parametrize("drawing", [(), ("Python",), ("NumPy",), ("torch",), tuple(DRAW)])
def test_those_that_are_drawn_from_go_on_and_the_others_are_given_back(drawing):
    first = GlobalRandomStates(torch.device("cpu"))
    for name in drawing:
        DRAW[name]()
    kept, at_the_stop = first.state_dict(), states()
    assert kept["drawn"] == sorted(drawing)
    expected, found = draws(), states()

    second = GlobalRandomStates(torch.device("cpu"))
    second.load_state_dict(kept)
    assert draws() == expected
    second.load_state_dict(kept)
    second.give_back()
    assert states() == {name: (at_the_stop if name in drawing else found)[name] for name in DRAW}


def test_what_is_drawn_after_going_on_is_not_given_back():
    kept = GlobalRandomStates(torch.device("cpu")).state_dict()
    torch.rand(1)
    second = GlobalRandomStates(torch.device("cpu"))
    second.load_state_dict(kept)
    expected = torch.rand(2)[1]
    second.load_state_dict(kept)
    torch.rand(1)
    second.give_back()
    assert torch.rand(()) == expected
    assert second.state_dict()["drawn"] == ["torch"]


@pytest.mark.parametrize(
    ("device", "arguments"),
    [("cuda:1", {"device": torch.device("cuda:1")}), ("mps", {})],
)
def test_an_accelerator_has_a_generator_of_its_own(monkeypatch, device, arguments):
    kind, held = device.partition(":")[0], {"state": torch.zeros(3, dtype=torch.uint8)}

    def get_rng_state(**given):
        assert given == arguments
        return held["state"]

    def set_rng_state(state, **given):
        assert given == arguments
        held["state"] = state

    module = getattr(torch, kind)
    monkeypatch.setattr(module, "get_rng_state", get_rng_state)
    monkeypatch.setattr(module, "set_rng_state", set_rng_state)
    kept = GlobalRandomStates(torch.device(device)).state_dict()
    assert torch.equal(kept["states"]["accelerator"], torch.zeros(3, dtype=torch.uint8))
    held["state"] = torch.ones(3, dtype=torch.uint8)
    second = GlobalRandomStates(torch.device(device))
    second.load_state_dict(kept)
    assert held["state"].sum() == 0
    second.give_back()
    assert held["state"].sum() == 3
