"""Execute the notebooks.

python tools/notebooks.py run      into build/, and the site of them; notebooks/ stays as it is
python tools/notebooks.py update   in place: rewrites the committed outputs
"""

import argparse
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
CELL_SECONDS = 60
# A second thread buys nothing at these sizes, and costs much where something else needs the core.
# Sums in a fixed number of threads also come out the same every time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
FOLDERS = r"(?:site-packages|saetools|lib[/\\]python[0-9.]+)[/\\]"


class CellFailedError(Exception):
    """A cell failed, took too long, or did not raise although it should."""


def execute(notebook: Any, folder: Path, progress: Any = None) -> Any:
    """Run every cell of `notebook` in a kernel of its own, and return it.

    Raises:
        CellFailedError: names the cell, counted from 0, and says what happened.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    current = 0

    def on_cell_start(cell: Any, cell_index: int) -> None:
        nonlocal current
        del cell
        current = cell_index
        if progress is not None:
            progress.update(cell_index - progress.n)

    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=on_cell_start,
        record_timing=False,
        coalesce_streams=True,  # or they are cut where the clock has it
        extra_arguments=["--log-level=ERROR"],
    )
    try:
        client.execute()
    except CellTimeoutError as error:
        raise CellFailedError(f"cell {current}: took over {CELL_SECONDS} s") from error
    except DeadKernelError as error:
        raise CellFailedError(f"cell {current}: the kernel died") from error
    except CellExecutionError as error:
        raise CellFailedError(f"cell {current}: {error.ename}: {error.evalue}") from error
    for number, cell in enumerate(notebook.cells):
        raised = any(output.output_type == "error" for output in cell.get("outputs", []))
        if "raises-exception" in cell.metadata.get("tags", []) and not raised:
            raise CellFailedError(f"cell {number}: should raise, and did not")
    return notebook


def shorten_paths(traceback: str) -> str:
    """File names that begin at the package, where a traceback has whole paths."""
    # Greedy: of .../lib/python3.11/site-packages/torch/x.py, site-packages/torch/x.py stays.
    return re.sub(rf"(?m)^(File )(?:.*[/\\\\])?(?={FOLDERS})", r"\1", traceback)


def scrub(notebook: Any) -> Any:
    """Take out all that differs from run to run or from machine to machine."""
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": language,
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                lines = "\n".join(output.traceback)
                output.traceback = shorten_paths(ANSI.sub("", lines)).split("\n")
    return notebook


def to_pages(folder: Path) -> str | None:
    """The project's site with the notebooks in `folder`; return what went wrong."""
    if find_spec("myst_nb") is None:
        return 'no pages were made: python -m pip install -e ".[site]" brings what they need'
    site = folder / "site"
    options = ["-q", "-c", "docs", "-d", str(folder / "doctrees"), "-D", f"executed={folder}"]
    if subprocess.call([sys.executable, "-m", "sphinx", *options, ".", str(site)], cwd=ROOT):
        return "Sphinx could not make the pages: its last lines above say why"
    print(f"as pages: {site / 'index.html'}")
    return None


def main(arguments: list[str]) -> str | None:
    """Run the command line; return what went wrong, if anything did."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("action", choices=["run", "update"])
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of them if none is named")
    options = parser.parse_args(arguments)
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    paths = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    failures = [] if paths else ["there is no notebook in notebooks/"]
    for path in paths:
        try:
            notebook = nbformat.read(path, as_version=4)
        except (OSError, ValueError) as error:  # not there, or not JSON
            failures.append(f"{path.name}: {error}")
            continue
        start = time.perf_counter()
        bar = tqdm(
            total=len(notebook.cells), desc=path.name, unit="cell", leave=False, disable=None
        )
        try:
            with bar:
                execute(notebook, path.parent, bar)
        except CellFailedError as error:
            failures.append(f"{path.name}, {error}")
            print(f"{path.name}: FAILED, {error}", flush=True)
        else:
            seconds = time.perf_counter() - start
            print(f"{path.name}: {len(notebook.cells)} cells, {seconds:.0f} s", flush=True)
            if options.action == "update":
                nbformat.write(scrub(notebook), path)
        nbformat.write(scrub(notebook), build / path.name)
    if options.action == "run" and paths:
        failures += filter(None, [to_pages(build)])
    return "\n".join(failures) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
