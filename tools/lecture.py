"""An empty version of the notebooks, for a lecture: without outputs, answers and solutions.

python tools/lecture.py                    into lecture-version/, beside notebooks/
python tools/lecture.py --with-solutions   with the solutions in the places of the stubs

What goes is marked in the notebooks: a folded block, <details>, which holds a solution or answers;
and text between <!-- answer --> and <!-- /answer -->, what a result shows. The code stays as it is.
Its figures' titles and the tolerances of its checks tell a reader who looks ahead what to expect.
A folder that is there already is left alone: somebody may have written answers into it.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parent.parent
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
ANSWER = re.compile(r"<!-- answer -->.*?<!-- /answer -->", re.DOTALL)
YOURS = "*Your answer:*"
NOTES = "*Your notes:*"  # in the place of a solution, whose answer is the stub


def emptied(notebook: Any, *, with_solutions: bool = False) -> Any:
    """A copy of `notebook` without outputs, without what answers a question, and without solutions.

    Args:
        notebook: as nbformat reads it.
        with_solutions: put each solution in the place of its stub.
    """
    copy = nbformat.from_dict(notebook)
    answers = solutions(notebook)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            for tag in cell.metadata.get("tags", []):
                if with_solutions and tag.startswith("exercise-"):
                    cell.source = answers[tag.removeprefix("exercise-")]
        else:
            source = FOLDED.sub(YOURS, SOLUTION.sub(NOTES, cell.source))
            cell.source = ANSWER.sub(YOURS, source).strip()
    return copy


def solutions(notebook: Any) -> dict[str, str]:
    """The code of each solution, by the exercise's number."""
    found = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("solution-") and (code := SOLUTION.search(cell.source)):
                found[tag.removeprefix("solution-")] = code[1].rstrip()
    return found


def main(arguments: list[str]) -> None:
    """Write the empty versions of all notebooks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--with-solutions", action="store_true")
    options = parser.parse_args(arguments)
    folder = ROOT / "lecture-version"  # beside notebooks/, so that relative links and paths hold
    if list(folder.glob("*.ipynb")):
        sys.exit(f"{folder.name} is there, perhaps with answers in it: move or delete it first")
    folder.mkdir(exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        nbformat.write(emptied(notebook, with_solutions=options.with_solutions), folder / path.name)
    print(f"{folder.relative_to(ROOT)}: {len(list(folder.glob('*.ipynb')))} notebooks")


if __name__ == "__main__":
    main(sys.argv[1:])
