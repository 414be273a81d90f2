"""Set-up: what a Python that cannot be used is told, and which build of PyTorch comes."""

import json
import subprocess
import sys
import types

import pytest
from notebook_tools import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import setup_venv


@pytest.mark.parametrize(
    ("spoiled", "told"),
    [
        ("sys.version_info = (3, 9, 1)", "Python 3.11 or newer is needed, this is 3.9"),
        ("sys.modules['ensurepip'] = None", "this Python has no venv module"),
    ],
)
def test_a_python_that_cannot_be_used_is_told_so_in_one_line(tmp_path, spoiled, told):
    code = (
        f"import sys, runpy; {spoiled};"
        f"sys.argv = ['setup', {str(tmp_path / 'venv')!r}];"
        f"runpy.run_path({str(ROOT / 'tools' / 'setup_venv.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    [line] = done.stderr.splitlines()
    assert line.startswith(f"set-up: {told}")


@pytest.fixture
def pip(monkeypatch):
    """What pip and uv are asked, and what they answer: set `names`, `code` and `fails`."""
    fake = types.SimpleNamespace(asked=[], names=["torch"], code=0, fails=())

    def run(command, **_):
        if "ensurepip" not in command:  # which venv.create starts
            fake.asked.append(command)
        report = {"install": [{"metadata": {"name": name}} for name in fake.names]}
        return types.SimpleNamespace(returncode=fake.code, stdout=json.dumps(report).encode())

    def call(command):
        fake.asked.append(command)
        return int(any(word in command for word in fake.fails))

    monkeypatch.setattr(setup_venv.subprocess, "run", run)
    monkeypatch.setattr(setup_venv.subprocess, "call", call)
    monkeypatch.setattr(setup_venv.sys, "platform", "linux")
    return fake


@pytest.mark.parametrize(
    ("names", "cuda"),
    [
        (["torch", "filelock", "numpy"], False),
        (["torch", "nvidia-cublas-cu12", "filelock"], True),
        (["torch", "cuda-bindings"], True),
    ],
)
def test_pip_is_asked_what_comes_with_torch(pip, names, cuda):
    pip.names = names
    assert setup_venv.brings_cuda("python") is cuda
    [command] = pip.asked
    assert "--dry-run" in command
    assert "constraints.txt" in command


def test_elsewhere_than_on_linux_or_where_pip_fails_nothing_is_concluded(pip, monkeypatch):
    pip.names, pip.code = ["nvidia-nccl-cu12"], 1
    assert not setup_venv.brings_cuda("python")
    monkeypatch.setattr(setup_venv.sys, "platform", "darwin")
    pip.code, pip.asked[:] = 0, []
    assert not setup_venv.brings_cuda("python")
    assert pip.asked == []


@pytest.mark.parametrize(
    ("names", "driver", "commands"),
    [
        (["torch"], False, 1),
        (["nvidia-nccl-cu12"], True, 1),
        (["nvidia-nccl-cu12"], False, 3),
    ],
)
def test_the_cpu_build_comes_first_where_cuda_is_of_no_use(
    pip, monkeypatch, tmp_path, names, driver, commands
):
    pip.names = names
    monkeypatch.setattr(setup_venv, "has_nvidia_driver", lambda: driver)
    assert setup_venv.main(str(tmp_path / "venv")) is None
    assert (tmp_path / "venv" / "ready").is_file()
    made = pip.asked[1:]
    assert len(made) == commands
    assert setup_venv.PROJECT in made[-1]
    if commands == 3:
        assert made[0][-1] == "uv"
        at = made[1].index("--torch-backend")
        assert made[1][at + 1] == "cpu"
        assert made[1][-1] == "torch"


@pytest.mark.parametrize("fails", ["uv", "--torch-backend"])
def test_where_the_cpu_build_cannot_be_had_pip_goes_on(pip, monkeypatch, tmp_path, capsys, fails):
    pip.names, pip.fails = ["nvidia-nccl-cu12"], [fails]
    monkeypatch.setattr(setup_venv, "has_nvidia_driver", lambda: False)
    assert setup_venv.main(str(tmp_path / "venv")) is None
    assert "with CUDA, does as well" in capsys.readouterr().out
    assert setup_venv.PROJECT in pip.asked[-1]


def test_a_failed_installation_leaves_no_mark(pip, monkeypatch, tmp_path):
    pip.fails = [setup_venv.PROJECT]
    monkeypatch.setattr(setup_venv, "has_nvidia_driver", lambda: False)
    assert "pip could not install" in setup_venv.main(str(tmp_path / "venv"))
    assert not (tmp_path / "venv" / "ready").exists()
