"""Is everything installed that the notebooks need? The standard library is enough to ask.

`python -m saetools` asks it, and `import saetools` where torch is missing.
"""

import re
from collections.abc import Iterable
from importlib import metadata
from typing import NamedTuple

# The package's requirements and its extra "notebooks"; a test keeps this and pyproject.toml equal.
REQUIREMENTS = (
    "torch>=2.4",
    "numpy>=1.26",
    "jupyter>=1.0",
    "matplotlib>=3.8",
    "scikit-learn>=1.4",
    "scipy>=1.11",
    "tqdm>=4.64",
)
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
# "jupyter" itself is an empty package that asks for others; who has these can run a notebook.
PARTS = {"jupyter": ("ipykernel", "nbconvert")}


class Missing(NamedTuple):
    """A requirement that is not met."""

    requirement: str  # as in "torch>=2.4"
    why: str  # "not installed", or "too old: 2.1.0"


def notebook_requirements() -> dict[str, str]:
    """What the notebooks need: the least version of each package, by its name.

    The installed package's metadata can raise a bound or add a name. They are not the only
    source, since a clone need not be installed, and may have been installed long ago.
    """
    bounds = _bounds(REQUIREMENTS)
    try:
        lines = metadata.requires("saetools") or []
    except metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if not marker or re.fullmatch(r"""extra\s*==\s*["']notebooks["']""", marker):
            for name, least in _bounds([requirement]).items():
                bounds[name] = max(least, bounds.get(name, ""), key=_release)
    return bounds


def missing_packages(requirements: Iterable[str] | None = None) -> list[Missing]:
    """The requirements that this Python does not meet.

    Nothing is imported: a package counts as there if its metadata are. A pre-release counts as
    the release that it leads to.

    Args:
        requirements: each a name, or a name and the least version, as in "torch>=2.4"; by
            default what the notebooks need.

    Example:
        >>> missing_packages(["torch>=2.4", "a-package-that-nobody-wrote>=1.0"])
        [Missing(requirement='a-package-that-nobody-wrote>=1.0', why='not installed')]
    """
    found = []
    for name, least in _bounds(requirements).items():
        version, requirement = _version(name), _join(name, least)
        if version is None:
            if not (name in PARTS and all(map(_version, PARTS[name]))):
                found.append(Missing(requirement, "not installed"))
        elif _release(version) < _release(least):
            found.append(Missing(requirement, f"too old: {version}"))
    return found


def check_environment(requirements: Iterable[str] | None = None) -> str:
    """What is missing and how to get it, or that nothing is, as a text to print.

    Example:
        >>> print(check_environment(["torch>=2.4", "numpy"]))
        numpy, torch: all packages are there
    """
    bounds = _bounds(requirements)
    missing = missing_packages(_join(name, least) for name, least in bounds.items())
    if not missing:
        return f"{', '.join(sorted(bounds))}: all packages are there"
    needed = _bounds(requirement for requirement, _ in missing).items()
    pip = [f'"{_join(name, least)}"' for name, least in needed]
    conda = [f'"{_join(CONDA_NAMES.get(name, name), least)}"' for name, least in needed]
    return "\n".join(
        [
            f"{len(missing)} of {len(bounds)} packages are missing or too old:",
            *(f"  {requirement}  ({why})" for requirement, why in missing),
            "Get them with one of these lines, and restart the kernel:",
            f"  python -m pip install {' '.join(pip)}",
            f"  conda install -c conda-forge {' '.join(conda)}",
        ]
    )


def _bounds(requirements: Iterable[str] | None) -> dict[str, str]:
    if requirements is None:
        return notebook_requirements()
    bounds = {}
    for text in requirements:
        parts = re.fullmatch(r"([A-Za-z0-9][\w.-]*)\s*(?:>=\s*(\d[\w.+!-]*))?", text.strip())
        if parts is None:
            raise ValueError(f'requirement must look like "torch" or "torch>=2.4", got {text!r}')
        bounds[parts[1]] = parts[2] or ""
    return bounds


def _join(name: str, least: str) -> str:
    return f"{name}>={least}" if least else name


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers, without zeros at the end: (2, 4) of "2.4.0rc1+cpu"."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, re.sub(r"(\.0+)+$", "", numbers[0]).split("."))) if numbers else ()
