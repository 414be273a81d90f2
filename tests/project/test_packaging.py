import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import yaml
from notebook_tools import ROOT

import saetools

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WANTED = [  # "peers" is for one benchmark, in an environment of its own
    *PROJECT["dependencies"],
    *chain.from_iterable(
        extra for name, extra in PROJECT["optional-dependencies"].items() if name != "peers"
    ),
]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "build": "python-build"}


def split(requirement):
    name, bound = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()
    return name, bound


def test_conda_and_pip_ask_for_the_same():
    expected = {CONDA_NAMES.get(name, name): bound for name, bound in map(split, WANTED)}
    expected["python"] = PROJECT["requires-python"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    packages = dict(split(line) for line in environment["dependencies"] if isinstance(line, str))
    assert packages.pop("pip") == ""
    assert packages == expected
    [pip] = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    assert pip == ["-e ."]
    assert environment["channels"] == ["conda-forge"]


def test_each_dependency_has_one_tested_version_within_its_bound():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    for name, bound in map(split, WANTED):
        pinned, lowest = (
            tuple(int(part) for part in version.split(".")[:2])
            for version in (pins[name], bound.removeprefix(">="))
        )
        assert pinned >= lowest
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins.values())  # no +cpu


def test_import_brings_torch_and_nothing_heavy():
    code = (
        "import sys, torch; before = set(sys.modules);"
        "import saetools; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not any(name.startswith("saetools.gradients") for name in done.stdout.split())
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    heavy = {"matplotlib", "pandas", "sklearn", "scipy", "IPython", "tqdm", "jupyter"}
    assert not loaded & (heavy | {"safetensors"})


IMPORTS = {  # who may import whom, inside the package
    "_checks": set(),
    "_files": set(),
    "_random_states": set(),
    "data": {"_checks"},
    "models": {"_checks"},
    "soft_steps": set(),
    "capture": set(),
    "pooling": {"_checks"},
    "frequency": {"_checks", "soft_steps"},
    "penalties": {"_checks", "frequency"},
    "metrics": {"_checks", "distributed", "frequency"},
    "forum_post": {"models"},
    "distributed": {"_checks"},
    "running": {"_checks", "distributed"},
    "accumulation": {"distributed", "frequency"},
    "init": {"_checks", "models"},
    "saving": {"_checks", "_files", "models"},
    "checkpoints": {"_checks", "_files", "_random_states", "saving"},
    "rows": {"_checks"},
    "training": {"_checks", "_files", "checkpoints", "models", "rows"},
    "_stacking": {"models"},
    "_members": {"_checks"},
    "ensembles": {
        "_checks",
        "_files",
        "_members",
        "_stacking",
        "checkpoints",
        "models",
        "rows",
        "training",
    },
    "directions": {"_checks"},
    "constraint": {"_checks", "frequency", "models"},
    "recipe": {
        "_checks",
        "_files",
        "directions",
        "ensembles",
        "init",
        "models",
        "penalties",
        "training",
    },
    "matching": {"_checks"},
    "verdict": {"data", "frequency", "matching", "metrics", "models"},
    "sklearn": {
        "_checks",
        "directions",
        "frequency",
        "metrics",
        "models",
        "penalties",
        "recipe",
        "training",
    },
    "ways": {
        "constraint",
        "directions",
        "ensembles",
        "frequency",
        "init",
        "models",
        "penalties",
        "recipe",
        "verdict",
    },
    "environment": set(),
    "plots": set(),
    "readout": set(),
}
# For the notebooks, or heavy.
OPTIONAL = {"plots", "readout", "exercises", "matching", "sklearn", "verdict", "ways"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "saetools").glob("*.py")), ids=lambda path: path.stem
)
def test_who_imports_whom(path):
    code = re.sub(r">>> .*", "", path.read_text("utf-8"))  # doctests import what they like
    imported = set(re.findall(r"^\s*(?:from|import) saetools\.(\w+)", code, re.MULTILINE))
    assert not re.search(
        r"^\s*(?:from \.|from saetools import|import saetools$)", code, re.MULTILINE
    )
    if path.stem == "__init__":
        assert not imported & OPTIONAL
    else:
        assert imported == IMPORTS[path.stem]


def test_every_public_name_is_listed_and_documented():
    for name in saetools.__all__:
        assert getattr(saetools, name).__doc__
    assert saetools.__all__ == sorted(saetools.__all__)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


SHIPPED = (
    "data/chicago_daily_context.csv.gz",
    "data/LICENSE",
    "data/README.md",
    "py.typed",
)


def test_wheel_and_sdist_hold_data_licences_and_types(built):
    wheel, sdist = built
    inside = zipfile.ZipFile(wheel).namelist()
    assert {f"saetools/{name}" for name in SHIPPED} <= set(inside)
    assert all(name.split("/")[0].startswith("saetools") for name in inside)
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"saetools/{name}" for name in SHIPPED} <= names
    assert {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", "Makefile"} <= names
    assert any(name.startswith("notebooks/") for name in names)


def test_the_wheel_installs_in_an_empty_environment_and_imports(built, tmp_path):
    wheel, _ = built
    venv.create(tmp_path / "venv", with_pip=False, symlinks=os.name != "nt")
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = str(shutil.which("python", path=str(scripts)))
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    [site] = subprocess.check_output([python, "-c", code], text=True).splitlines()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, str(wheel)],
        check=True,
    )
    # torch and numpy are borrowed from this environment, without its .pth files, so that the
    # editable saetools of the working tree stays out of reach.
    Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    code = (
        "import saetools; from importlib.resources import files;"
        "print(saetools.__file__, (files('saetools') / 'py.typed').is_file(),"
        "tuple(saetools.chicago_context().train.shape))"
    )
    said = subprocess.check_output([python, "-I", "-c", code], text=True, cwd=tmp_path)
    assert said.startswith(site)
    assert said.rstrip().endswith("True (4558, 20)")
