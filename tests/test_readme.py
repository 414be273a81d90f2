"""The README's code is run as it stands, and what the README says of it is checked."""

import re

import pytest
import torch
from notebook_tools import NOTEBOOKS, ROOT

from saetools import chicago_context, dead_latents, evaluate

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIX, USE, TRACE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("seed", range(3))
def test_the_fix_works_from_any_seed(seed):
    scope = {}
    exec(FIX, scope)
    assert "saetools" not in FIX
    exec(USE.replace("seed=0", f"seed={seed}"), scope)
    frequency = evaluate(scope["model"], chicago_context().train).frequency
    assert ((frequency - 0.2).abs() <= 0.02).all()
    assert not dead_latents(frequency).any()


def test_without_the_straight_through_gradient_it_does_not():
    scope = {}
    exec(FIX.replace("hard + (soft - soft.detach())", "hard"), scope)
    exec(USE, scope)
    frequency = evaluate(scope["model"], chicago_context().train).frequency
    assert ((frequency - 0.2).abs() > 0.1).any()


def test_initialisation_alone_is_exact_at_the_start():
    scope = {}
    exec(FIX, scope)
    layer, inputs = torch.nn.Linear(6, 3), torch.rand(1000, 6)
    scope["initialise_frequency_"](layer, inputs, rho=0.2)
    pre = layer(inputs)
    assert (pre > 0).float().mean(0).tolist() == pytest.approx([0.2] * 3, abs=0.002)
    assert pre.std(0).tolist() == pytest.approx([1] * 3, rel=1e-4)


def test_the_trace_is_what_the_readme_says(capsys):
    exec("import torch\n" + TRACE, {})
    assert "1 finding(s), 0 set aside\n1. cut at Tensor.gt" in capsys.readouterr().out


def test_links_and_map_are_complete():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in NOTEBOOKS:
        assert f"(notebooks/{path.name})" in README


def test_stated_files_of_the_package_exist_and_none_is_missing():
    listed = set(re.findall(r"\(saetools/(\w+)\.py\)", README))
    present = {path.stem for path in (ROOT / "saetools").glob("[!_]*.py")}
    assert listed == present


def test_pasted_lines_fit_a_screen():
    assert max(map(len, (FIX + USE).splitlines())) <= 100
