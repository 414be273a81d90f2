"""Pages of reference from the docstrings: build/reference/saetools.html is the first of them.

Usage, in the project's folder: python tools/reference.py [FOLDER]
"""

import sys
from pathlib import Path

import pdoc

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "saetools",
    "saetools.gradients",
    "saetools.metrics",
    "saetools.tutorial.plots",
    "saetools.sklearn",
)


def main(folder: Path) -> None:
    """Write the pages into `folder`."""
    pdoc.render.configure(docformat="google", show_source=False, footer_text="saetools")
    pdoc.pdoc(*MODULES, output_directory=folder)
    print(f"reference: {folder / 'saetools.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "reference")
