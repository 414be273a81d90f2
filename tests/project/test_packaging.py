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

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
APART = {"peers", "activations"}  # each for one benchmark, in an environment of its own
WANTED = [
    *PROJECT["dependencies"],
    *chain.from_iterable(extra for name, extra in EXTRAS.items() if name not in APART),
]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def split(requirement):
    name, bound = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()
    return name, bound


def test_conda_brings_what_the_notebooks_need_and_no_more():
    needed = [*PROJECT["dependencies"], *EXTRAS["notebooks"]]
    expected = {CONDA_NAMES.get(name, name): bound for name, bound in map(split, needed)}
    expected |= {"python": PROJECT["requires-python"], "pip": ""}
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    environment = yaml.safe_load(text)
    packages = dict(split(line) for line in environment["dependencies"] if isinstance(line, str))
    assert packages == expected
    [pip] = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    assert pip == ["-e ."]
    assert environment["channels"] == ["conda-forge"]
    [added] = re.findall(r"pip install -e \"\.\[(.*)\]\"", text)
    assert {"notebooks", "browser", *APART, *added.split(",")} >= EXTRAS.keys() - {
        "sklearn",
        "plots",
    }
    assert {*EXTRAS["sklearn"], *EXTRAS["plots"]} <= {*EXTRAS["notebooks"]}


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


@pytest.mark.slow
def test_wheel_and_sdist_hold_data_licences_and_types(built):
    wheel, sdist = built
    inside = zipfile.ZipFile(wheel).namelist()
    assert {f"saetools/{name}" for name in (*SHIPPED, "tutorial/comparison.csv")} <= set(inside)
    assert all(name.split("/")[0].startswith("saetools") for name in inside)
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"saetools/{name}" for name in SHIPPED} <= names
    assert {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", "Makefile"} <= names
    assert {"docs/conf.py", "CONTRIBUTING.md", "benchmarks/results/comparison.csv"} <= names
    assert any(name.startswith("notebooks/") for name in names)


@pytest.mark.slow
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
        "from saetools.tutorial.comparison import read_grid; assert len(read_grid()) > 1000;"
        "print(saetools.__file__, (files('saetools') / 'py.typed').is_file(),"
        "tuple(saetools.chicago_context().train.shape))"
    )
    said = subprocess.check_output([python, "-I", "-c", code], text=True, cwd=tmp_path)
    assert said.startswith(site)
    assert said.rstrip().endswith("True (4558, 20)")
