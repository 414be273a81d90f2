"""Are the notebooks' outputs there? Elsewhere they are stripped; here people and tests read them.

python tools/outputs.py NOTEBOOK ...    needs nothing but Python
"""

import json
import sys
from pathlib import Path


def not_executed(path: Path) -> list[int]:
    """The numbers of the cells, counted from 0, that have code and were not executed in order."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [n for n, cell in enumerate(cells) if cell["cell_type"] == "code" and cell["source"]]
    return [n for place, n in enumerate(code, 1) if cells[n]["execution_count"] != place]


def main(paths: list[str]) -> str | None:
    """Check each; return what is missing."""
    missing = {path: cells for path in paths if (cells := not_executed(Path(path)))}
    lines = (f"{path}: cells {', '.join(map(str, cells))}" for path, cells in missing.items())
    return "\n".join([*lines, "not executed in order: make update-outputs"]) if missing else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
