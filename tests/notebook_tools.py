"""What the tests on the notebooks share."""

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# The files that take longest, in that order. With --dist loadscope xdist hands out whole files, and
# with --no-loadscope-reorder in the order of collection; by itself it begins with those of the most
# items, and a notebook has fewer than a file of quick tests. With the long ones first, what is left
# for the end is short, and no worker waits for the other.
LONGEST = (
    "notebooks/08_does_it_hold_with_thousands_of_latents.ipynb",
    "notebooks/05_weight_initialisation.ipynb",
    "notebooks/06_all_together.ipynb",
    "notebooks/07_which_frequency.ipynb",
    "notebooks/09_where_else_does_a_count_lose_its_gradient.ipynb",
    "tests/notebooks/test_teeth.py",
    "notebooks/03_soft_activations.ipynb",
    "tests/reuse/test_distributed.py",
    "notebooks/04_keeping_the_frequency_off_0_and_1.ipynb",
    "notebooks/01_the_penalty_that_does_nothing.ipynb",
    "notebooks/00_start_here.ipynb",
    "notebooks/02_where_the_gradient_goes.ipynb",
    "tests/site/test_pages.py",
    "tests/project/test_recipes_page.py",
    "tests/training/test_ensemble.py",
    "tests/project/test_readme.py",
    "tests/reuse/test_sklearn.py",
    "tests/project/test_tools.py",
)


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
