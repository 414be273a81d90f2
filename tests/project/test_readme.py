"""The README's code is run as it stands, and what the README says of it is checked."""

import importlib
import re

import pytest
import torch
from notebook_tools import NOTEBOOKS, ROOT, read

import saetools
from saetools import activation_frequency, chicago_context, dead_latents, evaluate

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIX, TRACE, USE, PACKAGE, LARGE, OWN = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ANSWER = (ROOT / "docs" / "forum_answer.md").read_text(encoding="utf-8")


def functions_of(fix):
    """What the second block needs of the first; all others run in a scope of their own."""
    scope = {}
    exec(fix, scope)
    assert "saetools" not in fix
    return {name: scope[name] for name in ("start_at_rho_", "sparsity_penalty")}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_fix_works_from_any_seed(seed):
    scope = functions_of(FIX)
    exec(USE.replace("seed=0", f"seed={seed}"), scope)
    frequency = evaluate(scope["model"], chicago_context().train).frequency
    assert ((frequency - 0.2).abs() <= 0.02).all()
    assert not dead_latents(frequency).any()


@pytest.mark.slow
def test_without_the_straight_through_gradient_it_does_not():
    scope = functions_of(FIX.replace("hard + (soft - soft.detach())", "hard"))
    exec(USE, scope)
    frequency = evaluate(scope["model"], chicago_context().train).frequency
    assert ((frequency - 0.2).abs() > 0.1).any()


@pytest.mark.slow
def test_with_the_package_units_are_where_the_readme_says(capsys):
    scope = {}
    exec(PACKAGE, scope)
    assert re.findall(r"[\d.]+", capsys.readouterr().out) == ["0.2001"] * 4
    x = scope["x"]
    assert ((evaluate(scope["model"], x).frequency - 0.2).abs() <= 0.05).all()
    for model in scope["models"]:
        assert ((evaluate(model, x).frequency - 0.2).abs() <= 1e-3).all()


@pytest.mark.parametrize("seed", range(3))
def test_two_lines_bring_the_units_of_a_plain_mlp_to_rho(seed):
    line = '    loss = loss + frequency_penalty(captured["2"], rho=0.2)  # and the second\n'
    assert OWN.count("captured = Capture") == OWN.count(line) == 1
    found = []
    for code in (OWN, OWN.replace(line, "")):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            scope = {}
            exec(code, scope)
        found.append(activation_frequency(scope["captured"]["2"]))
    assert ((found[0] - 0.2).abs() <= 0.05).all()
    assert ((found[1] - 0.2).abs() > 0.1).any()


def test_the_answer_to_the_forum_fits_a_screen_and_is_the_readmes_fix():
    [code] = re.findall(r"```python\n(.*?)```", ANSWER, re.DOTALL)
    assert len(ANSWER.splitlines()) <= 45
    answer, fix = {}, {}
    exec(code, answer)
    exec(FIX, fix)
    inputs = torch.rand(500, 6)
    layers = [torch.nn.Linear(6, 3) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    answer["start_at_rho_"](layers[0], inputs, 0.2)
    fix["start_at_rho_"](layers[1], inputs, 0.2)
    slopes = []
    for layer, scope in zip(layers, (answer, fix), strict=True):
        cost = scope["sparsity_penalty"](layer(inputs), 0.3)
        slopes.append((cost, *torch.autograd.grad(cost, list(layer.parameters()))))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)


def test_initialisation_alone_is_exact_at_the_start():
    scope = {}
    exec(FIX, scope)
    layer, inputs = torch.nn.Linear(6, 3), torch.rand(1000, 6)
    scope["start_at_rho_"](layer, inputs, rho=0.2)
    pre = layer(inputs)
    assert (pre > 0).float().mean(0).tolist() == pytest.approx([0.2] * 3, abs=0.002)
    assert pre.std(0).tolist() == pytest.approx([1] * 3, rel=1e-4)


def test_the_trace_is_what_the_readme_says(capsys):
    exec(TRACE, {})
    said = capsys.readouterr().out
    assert said.startswith("1. cut at Tensor.gt")
    assert said.endswith("1 backward call, 2 of 2 parameters reached\n")


def test_links_and_map_are_complete():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in NOTEBOOKS:
        assert f"(notebooks/{path.name})" in README


def test_every_room_is_in_the_table_with_names_that_are_in_it():
    rows = re.findall(
        r"^\| \[\w+/?\]\(saetools/(\w+)(?:/__init__)?\.py\) \| (.*) \|$", README, re.M
    )
    files = (ROOT / "saetools").glob("[!_]*")
    rooms = {path.stem for path in files if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {room for room, _ in rows} == rooms
    for room, says in rows:
        module = importlib.import_module(f"saetools.{room}")
        linked = re.findall(r"\[`\w+`\]\((saetools/[\w/]+)\.py\)", says)
        files = [importlib.import_module(file.replace("/", ".")) for file in linked]
        places = [saetools, module, *files]
        for name in re.findall(r"`(\w+)", says):
            assert any(hasattr(place, name) for place in places), (room, name)


def test_the_threshold_holds_what_was_asked(capsys):
    scope = {}
    exec(LARGE, scope)
    assert float(capsys.readouterr().out) == pytest.approx(8, abs=0.5)
    seen = scope["evaluate"](scope["model"], scope["x"])
    assert seen.frequency.min() > 8 / 512 / 5 * 0.9
    assert 0 < seen.fvu < 0.6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_readme_states_a_notebooks_own_question_and_time(path):
    first = read(path).cells[0].source
    [seconds] = re.findall(r"\*\*Running time\*\* about (\d+) seconds", first)
    [(question, stated)] = re.findall(
        rf"^\| \[\d\d\]\(notebooks/{path.name}\) \| ([^|]*) \|.*\| (\d+) s \|$", README, re.M
    )
    assert (question, stated) == (first.splitlines()[0].split(" · ")[1], seconds)


def test_pasted_lines_fit_a_screen():
    assert max(map(len, (FIX + USE + PACKAGE + LARGE).splitlines())) <= 100
