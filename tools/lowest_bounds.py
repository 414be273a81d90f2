"""Does the project work with the lowest versions that pyproject.toml admits?

python tools/lowest_bounds.py FOLDER

Makes a virtual environment in FOLDER with the lowest version of each direct dependency and runs
the tests there. It is slow (on Linux an old torch brings its CUDA libraries), so it is run by
hand when a bound changes.
"""

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lowest(project: dict[str, dict[str, list[str]]]) -> list[str]:
    """Each direct dependency at its lowest bound: torch>=2.4 becomes torch==2.4.*.

    Not those of `peers` and `activations`, with environments of their own, nor of `browser`.
    """
    extras = project["optional-dependencies"]
    apart = ("peers", "activations", "browser")
    wanted = [name for extra in extras if extra not in apart for name in extras[extra]]
    wanted += project["dependencies"]
    return sorted({re.sub(r">=(.+)", r"==\1.*", requirement) for requirement in wanted})


def main(folder: str) -> str | None:
    """Install and test; return what went wrong, if anything did."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = lowest(project)
    print("\n".join(pins), flush=True)
    venv.create(folder, with_pip=True)
    python = str(Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python")
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--editable",
        f"{ROOT}[notebooks,saving,sklearn,site,test]",
    ]
    if subprocess.call(install + pins) != 0:
        return "the lowest versions do not install together"
    # An old matplotlib meets a new pyparsing here, and the like: their warnings are not ours.
    quiet = ["-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning"]
    workers = ["-n", "2", "--dist", "loadscope", "--no-loadscope-reorder"]
    tests = [python, "-m", "pytest", "-q", *workers, *quiet]
    if subprocess.call(tests, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}) != 0:
        return "the tests fail with the lowest versions"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
