"""Every decimal number that a sentence states is to be found in an output or a source.

A sentence whose number no cell shows is believed, and goes stale unseen.
"""

import re

import nbformat
import pytest
from notebook_tools import NOTEBOOKS, read

NUMBER = re.compile(r"(?<![\w.,/])\d+\.\d+(?![\w/]|\.\d)")
# Not results: links and the names in them, code, and mathematics.
NOT_PROSE = re.compile(
    r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\]\([^)]*\)|arXiv[: ]\d{4}\.\d+|https?://\S+", re.DOTALL
)
NO_RESULTS = re.compile(r"## Sources.*|^> \*\*Predict\.\*\*.*?$", re.DOTALL | re.MULTILINE)
# notebook -> numbers that no cell of it shows, each with the reason for which it may stand there
ALLOWED: dict[str, dict[str, str]] = {
    "04": {"0.167": "an answer, with its sum beside it"},
    "05": {"0.9": "an answer: 1 minus the 10 % of the question"},
    "07": {"0.41": "an answer, with its sum beside it"},
    "06": {"1.96": "the normal distribution's, in an exercise"},
}


def stated(notebook):
    """(cell, number) of each decimal in prose, but for code, mathematics, guesses and sources."""
    for position, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            prose = NO_RESULTS.sub("", NOT_PROSE.sub(" ", cell.source))
            yield from ((position, number) for number in NUMBER.findall(prose))


def shown(notebook):
    """All numbers in sources and outputs of code cells, as floats."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts.append(cell.source)
            for output in cell.outputs:
                data = output.get("data", {})
                texts += [output.get("text", ""), data.get("text/plain", "")]
                texts.append(output.get("evalue", ""))
    found = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", "\n".join(texts))
    return {float(number) for number in found}


def not_shown(notebook, name):
    """The numbers in prose that neither a cell nor the list of exceptions has."""
    known, allowed = shown(notebook), ALLOWED.get(name, {})
    return [
        f"cell {position}: {number}"
        for position, number in stated(notebook)
        if number not in allowed and not is_shown(number, known)
    ]


def is_shown(number, known):
    """Whether `number` is one of the known, or one of them rounded to its digits."""
    digits = len(number.split(".")[1])
    return any(f"{value:.{digits}f}" == number for value in known)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_decimal_number_in_prose_is_shown_by_a_cell(path):
    assert not_shown(read(path), path.name[:2]) == []


def notebook(prose, source="x = 0.25", output="0.39 ± 0.03"):
    cell = nbformat.v4.new_code_cell(source)
    cell.outputs = [nbformat.v4.new_output("stream", text=output)]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose), cell])


@pytest.mark.parametrize(
    "prose",
    [
        "The error is 0.39, or 0.4 for short, and x is 0.25.",
        "See [arXiv 2407.14435](https://arxiv.org/abs/2407.14435), and `y = 7.77`.",
        "$$7.77$$ and version 2.13.0, 3 of 7.\n\n## Sources\n\n- Somebody, 7.77.",
    ],
)
def test_what_a_cell_shows_and_what_is_no_result_may_be_stated(prose):
    assert not_shown(notebook(prose), "99") == []


@pytest.mark.parametrize("prose", ["The error is 0.38.", "About 4.5 temperatures,", "(0.03, 7.77)"])
def test_a_number_that_no_cell_shows_is_noticed(prose):
    [found] = not_shown(notebook(prose), "99")
    assert found == f"cell 0: {re.findall(NUMBER, prose)[-1]}"


def test_a_spoiled_notebook_is_noticed():
    [path] = [path for path in NOTEBOOKS if path.name.startswith("03")]
    spoiled = read(path)
    assert not_shown(spoiled, "03") == []
    cell = next(cell for cell in spoiled.cells if "five is a safe rule" in cell.source)
    cell.source = "At four and a half it is 0.0187. " + cell.source
    assert [line.split(": ")[1] for line in not_shown(spoiled, "03")] == ["0.0187"]


def test_exceptions_are_needed_and_have_a_reason():
    for number, exceptions in ALLOWED.items():
        [path] = [path for path in NOTEBOOKS if path.name.startswith(number)]
        stated_there = {found for _, found in stated(read(path))}
        known = shown(read(path))
        for exception, reason in exceptions.items():
            assert exception in stated_there, f"{number}: {exception} is stated no more"
            assert not is_shown(exception, known), f"{number}: {exception} is shown"
            assert len(reason.split()) >= 3
