"""The blocks of docs/capstone.md run, and its rubric adds up."""

import re

import pytest
import torch
from notebook_tools import ROOT

PAGE = (ROOT / "docs" / "capstone.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_start_that_is_given_does_what_the_page_says(capsys):
    names = {}
    for block in BLOCKS:
        exec(block, names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0].rstrip(":") for line in lines] == [
        *(["farthest"] * 4),
        "False",
        "untrained_start",
        "random_directions",
        "principal_components",
        "the",
    ]
    unexplained = [float(line.split()[-1]) for line in lines[5:8]]
    assert unexplained == pytest.approx([0.66, 0.95, 0.70], abs=0.15)
    assert all("0.10 on" in line for line in lines[5:8])
    assert 0.8 < float(lines[-1].split()[-1]) < 1
    for on_train, on_test in names["found"]:
        assert ((on_train.frequency - 0.1).abs() < 0.02).all()
        assert 0.3 < on_test.fvu < 0.6
    pictures = names["as_pictures"]
    assert pictures.shape == (16, 8, 8)
    assert (pictures.flatten(1).std(1) > 0.01).all()
    assert torch.equal(names["train_rows"], names["pictures"][names["order"][:1200]])


def test_the_rubric_adds_up():
    [rubric] = re.findall(r"## Rubric\n\n(.+?)\n\n", PAGE, re.DOTALL)
    rows = rubric.splitlines()[2:]
    assert all(len(row.strip("|").split("|")) == 4 for row in rows)
    assert f"of {2 * len(rows)} is a pass" in PAGE


def test_links_lead_somewhere():
    prose = re.sub(r"```.+?```", "", PAGE, flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose):
        assert (ROOT / "docs" / target).exists()
