"""The files that people look for agree with the project."""

import json
import re
import sys

import pytest
import yaml
from notebook_tools import NOTEBOOKS, ROOT

import saetools

sys.path.insert(0, str(ROOT / "tools"))

import outputs


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_names_this_version():
    assert yaml.safe_load(text("CITATION.cff"))["version"] == saetools.__version__


def test_pre_commit_has_the_tested_ruff():
    [repository] = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    pins = text("constraints.txt").splitlines()
    wanted = [
        pin for hook in repository["hooks"] for pin in hook.get("additional_dependencies", [])
    ]
    assert len(wanted) == 2
    assert set(wanted) <= set(pins)


def test_the_workflow_does_what_ci_does_on_three_systems():
    jobs = yaml.safe_load(text(".github/workflows/test.yml"))["jobs"]
    systems = jobs["test"]["strategy"]["matrix"]["os"]
    assert [name.partition("-")[0] for name in systems] == ["ubuntu", "macos", "windows"]
    assert jobs["test"]["steps"][-1]["run"].startswith("make test ")
    assert "make test" in text(".ci/run")
    assert "make site " in "".join(step.get("run", "") for step in jobs["site"]["steps"])


def test_the_changelog_keeps_to_its_format():
    lines = text("CHANGELOG.md").splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", it) for it in versions[1:])
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert any(line.startswith("- ") for line in lines)


def test_the_issue_forms_are_forms():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 2
    for form in (yaml.safe_load(path.read_text(encoding="utf-8")) for path in forms):
        assert form["name"]
        assert form["description"]
        assert all(part["attributes"]["label"] for part in form["body"])
        assert {part["type"] for part in form["body"]} <= {"textarea", "input", "dropdown"}


def test_committed_notebooks_have_their_outputs():
    assert outputs.main(list(map(str, NOTEBOOKS))) is None


@pytest.mark.parametrize("count", [None, 7])
def test_a_cell_that_was_not_executed_in_order_is_named(tmp_path, count):
    book = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    number = next(n for n, cell in enumerate(book["cells"]) if cell["cell_type"] == "code")
    book["cells"][number]["execution_count"] = count
    (tmp_path / "a.ipynb").write_text(json.dumps(book), encoding="utf-8")
    assert f"a.ipynb: cells {number}\n" in outputs.main([str(tmp_path / "a.ipynb")])
