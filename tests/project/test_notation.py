"""docs/notation.md: code names exist, formulas are right, and the notebooks link to it."""

import math
import re

import pytest
import torch
from notebook_tools import NOTEBOOKS, ROOT, read

import saetools
from saetools import bernoulli_kl
from saetools.training.models import Output
from saetools.tutorial.matching import phi_coefficients

PAGE = (ROOT / "docs" / "notation.md").read_text("utf-8")
ANCHORS = {
    re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
    for title in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
}
ARGUMENTS = {"x", "batch", "encoded", "rho", "rho_hat", "temperature", "bandwidth", "eps"}


def test_every_code_name_is_one():
    symbols = PAGE.partition("## Formulas")[0]
    rest = {phi_coefficients.__name__, *Output._fields, *ARGUMENTS}
    for name in re.findall(r"`([\w.]+)`", symbols):
        assert name in rest or hasattr(saetools, name) or name == "torch.special.ndtr", name
    signatures = "\n".join(path.read_text("utf-8") for path in (ROOT / "saetools").rglob("*.py"))
    for name in ARGUMENTS - {"batch", "encoded"}:
        assert re.search(rf"\b{name}: ", signatures), name


def test_the_slope_of_the_penalty_is_that_of_the_page():
    rho_hat = torch.tensor([0.05, 0.2, 0.7], dtype=torch.float64, requires_grad=True)
    [slope] = torch.autograd.grad(bernoulli_kl(rho_hat, rho=0.2).sum(), rho_hat)
    torch.testing.assert_close(slope, ((rho_hat - 0.2) / (rho_hat * (1 - rho_hat))).detach())


def test_the_expected_count_and_its_slope_are_those_of_the_page():
    m = torch.tensor(-0.8, dtype=torch.float64, requires_grad=True)
    [slope] = torch.autograd.grad(torch.special.ndtr(m), m)
    assert slope.item() == pytest.approx(math.exp(-0.32) / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_to_a_term_lead_to_it(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    wanted = set(re.findall(r"docs/notation\.md#([\w-]+)", text))
    assert wanted <= ANCHORS


TERMS = {  # how a term stands in prose, and where the page has it
    r"rho": "symbols",
    r"active": "active",
    r"dead": "dead-rare-dense",
    r"straight-through": "hard-and-soft-count",
    r"temperature": "kernel-bandwidth-temperature",
    r"spread": "spread",
    r"smooth(ing|ed)": "smoothing",
    r"FVU": "fvu",
    r"shift and hold": "shift-and-hold",
    r"recipe": "recipe",
    r"ICA": "skewness-ica",
    r"multipliers?": "multiplier",
    r"mixtures?": "mixture-factor",
    r"phi": "match-phi-ceiling-auc",
}
OTHERWISE = {  # where the word means something else, or stands in a solution alone
    "00": {"temperature", "spread"},
    "02": {"spread", "active", "rho"},
    "04": {"active"},
    "09": {"mixtures?"},
}
NO_PROSE = re.compile(
    r"^## Sources.*|```.*?```|\$\$.*?\$\$|`[^`\n]*`|\$[^$\n]*\$|\]\([^)]*\)|^(#|\|)[^\n]*$"
    r"|^\*\*Afterwards[^\n]*$|^\d\. \*[^\n]*$",
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_term_of_the_glossary_is_linked_in_each_notebook(path):
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    prose = "\n".join(NO_PROSE.sub(" ", cell) for cell in cells)
    terms = {term: anchor for term, anchor in TERMS.items() if anchor in ANCHORS}
    assert len(terms) == len(TERMS)
    not_linked = {
        term
        for term, anchor in terms.items()
        if re.search(rf"(?<![\w-]){term}(?![\w-])", prose)
        if f"notation.md#{anchor})" not in "\n".join(cells)
    }
    assert not_linked <= OTHERWISE.get(path.name[:2], set())


def test_links_on_the_page_lead_somewhere():
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= ANCHORS
