"""Pages of reference from the docstrings: build/reference/saetools.html is the first of them.

Usage, in the project's folder: python tools/reference.py [FOLDER]
"""

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pdoc

ROOT = Path(__file__).resolve().parents[1]
MODULES = (  # the public names, and what is public in a room without being one of them
    "saetools",
    "saetools.gradients",
    "saetools.metrics",
    "saetools.reuse.sklearn",
    "saetools.tutorial.matching",
    "saetools.tutorial.plots",
)


def describe_fields(module: ModuleType) -> None:
    """Give the fields of its named tuples their comments for docstrings.

    Python's own, "Alias for field number 0", says nothing.
    """
    for kind in vars(module).values():
        if not (inspect.isclass(kind) and issubclass(kind, tuple) and hasattr(kind, "_fields")):
            continue
        source = inspect.getsource(kind)
        for field in kind._fields:
            comment = re.search(rf"^    {field}: .*?  # (.*)$", source, re.MULTILINE)
            getattr(kind, field).__doc__ = comment[1] if comment else ""


def main(folder: Path) -> None:
    """Write the pages into `folder`."""
    for name in MODULES:
        describe_fields(importlib.import_module(name))
    pdoc.render.configure(docformat="google", show_source=False, footer_text="saetools")
    pdoc.pdoc(*MODULES, output_directory=folder)
    print(f"reference: {folder / 'saetools.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "reference")
