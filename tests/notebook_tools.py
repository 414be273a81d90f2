"""What the tests on the notebooks share."""

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def exercises(notebook):
    """The numbers of the exercises, from the tags of their stubs."""
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    return [tag.removeprefix("exercise-") for tag in tags if tag.startswith("exercise-")]


def solution(notebook, number):
    """The code of the folded solution."""
    [cell] = tagged(notebook, f"solution-{number}")
    return re.search(r"<details>.*?```python\n(.*?)```", cell.source, re.DOTALL).group(1)
