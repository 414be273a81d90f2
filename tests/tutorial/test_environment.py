"""What the reader is told of packages that are there, too old, or not there."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from notebook_tools import ROOT

from saetools.tutorial import environment
from saetools.tutorial.environment import (
    REQUIREMENTS,
    Missing,
    check_environment,
    missing_packages,
    notebook_requirements,
)

NOBODYS = "a-package-that-nobody-wrote"


@pytest.fixture
def installed(monkeypatch):
    """Fill the dict that this returns: it is all that is installed, name -> version."""
    versions = {}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(environment.metadata, "version", version)
    return versions


@pytest.fixture
def says(monkeypatch):
    """A function that sets what saetools' own metadata ask for; None: it is not installed."""

    def set_to(lines):
        def requires(name):
            if lines is None:
                raise metadata.PackageNotFoundError(name)
            return lines

        monkeypatch.setattr(environment.metadata, "requires", requires)

    return set_to


def test_the_list_is_that_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["notebooks"]
    assert sorted(wanted) == sorted(REQUIREMENTS)


@pytest.mark.parametrize("lines", [None, [], ["torch>=2.4"]])
def test_without_metadata_or_with_old_ones_the_list_holds(says, lines):
    says(lines)
    assert sorted(f"{k}>={v}" for k, v in notebook_requirements().items()) == sorted(REQUIREMENTS)


def test_metadata_raise_bounds_and_add_names(says):
    says(
        [
            "torch>=2.10",
            "numpy>=1.3",
            'tqdm>=5; extra == "notebooks"',
            "pooch>=1.8 ; extra == 'notebooks'",
            "scipy>=99; extra == 'test'",
            "matplotlib<3.11; extra == 'peers'",
        ]
    )
    bounds = notebook_requirements()
    assert (bounds["torch"], bounds["tqdm"], bounds["pooch"]) == ("2.10", "5", "1.8")
    assert (bounds["numpy"], bounds["scipy"], bounds["matplotlib"]) == ("1.26", "1.11", "3.8")


def test_here_everything_is_there_and_no_version_is_printed():
    assert missing_packages() == []
    told = check_environment()
    assert told == (
        "jupyter, matplotlib, numpy, scikit-learn, scipy, torch, tqdm: all packages are there"
    )
    assert not re.search(r"\d", told)


@pytest.mark.parametrize(
    ("version", "bound", "enough"),
    [
        ("2.4", "2.4", True),
        ("2.4.0", "2.4", True),
        ("2.13.0+cpu", "2.4", True),  # 13 > 4, although "13" < "4"
        ("2.4.0a0+git123", "2.4", True),
        ("2.4.0.dev20240601", "2.4", True),
        ("3", "2.4.1", True),
        ("2.3.1", "2.4", False),
        ("2.4", "2.4.1", False),
        ("1.99", "2", False),
        ("unknown", "2.4", False),
        ("unknown", None, True),
    ],
)
def test_versions_are_compared_as_numbers(installed, version, bound, enough):
    installed["torch"] = version
    requirement = "torch" if bound is None else f"torch>={bound}"
    found = [] if enough else [Missing(requirement, f"too old: {version}")]
    assert missing_packages([requirement]) == found


def test_what_is_missing_is_named_with_how_to_get_it(installed):
    installed.update({"torch": "2.3.0", "numpy": "2.0"})
    told = check_environment(["numpy>=1.26", "torch>=2.4", "matplotlib>=3.8", "scipy"])
    assert told.splitlines() == [
        "3 of 4 packages are missing or too old:",
        "  torch>=2.4  (too old: 2.3.0)",
        "  matplotlib>=3.8  (not installed)",
        "  scipy  (not installed)",
        "Get them with one of these lines, and restart the kernel:",
        '  python -m pip install "torch>=2.4" "matplotlib>=3.8" "scipy"',
        '  conda install -c conda-forge "pytorch>=2.4" "matplotlib-base>=3.8" "scipy"',
    ]


@pytest.mark.parametrize("name", ["matplotlib", "tqdm", "scikit-learn", "scipy", "numpy"])
def test_each_package_is_missed(installed, name):
    installed.update(dict(requirement.split(">=") for requirement in REQUIREMENTS))
    assert missing_packages() == []
    del installed[name]
    assert [found.requirement.split(">=")[0] for found in missing_packages()] == [name]


def test_jupyter_may_be_there_in_parts(installed):
    installed.update({"ipykernel": "7.0", "nbconvert": "7.0"})
    assert missing_packages(["jupyter>=1.0"]) == []
    del installed["nbconvert"]
    assert missing_packages(["jupyter>=1.0"]) == [Missing("jupyter>=1.0", "not installed")]


@pytest.mark.parametrize("bad", ["", "torch<3", "torch==2.4", "torch>=", "torch >= new", "-r x"])
def test_another_form_is_refused(bad):
    with pytest.raises(ValueError, match="requirement must look like"):
        missing_packages([bad])


def test_spaces_do_no_harm():
    assert missing_packages([" numpy >= 1.26 "]) == []
    assert missing_packages([f"{NOBODYS} >= 1.0"]) == [Missing(f"{NOBODYS}>=1.0", "not installed")]


def run(*options):
    return subprocess.run([sys.executable, *options], capture_output=True, text=True, cwd=ROOT)


def test_a_command_asks_the_same():
    here = run("-m", "saetools")
    assert (here.returncode, here.stdout.strip()) == (0, check_environment())


@pytest.mark.parametrize("options", [("-m", "saetools"), ("-c", "import saetools.frequency")])
def test_where_torch_is_missing_the_error_names_all_that_is(options):
    bare = run("-S", *options)
    assert bare.returncode == 1
    assert "ModuleNotFoundError: 7 of 7 packages are missing or too old:" in bare.stderr
    assert "torch>=2.4  (not installed)" in bare.stderr
    assert "\n  python -m pip install" in bare.stderr
