"""Make a virtual environment and install the project in it, on Linux with the CPU build of PyTorch.

Usage, in the project's folder: python tools/setup_venv.py FOLDER

It is written for any Python 3, so that a Python that is too old can be told so in one line.
"""

import json
import os
import subprocess
import sys

PINNED = ["--constraint", "constraints.txt"]
PROJECT = ".[notebooks,saving,sklearn,site,test]"


def main(folder):
    """Create `folder`, install the pinned set, and leave a file `ready` in it."""
    if sys.version_info < (3, 11):
        return "Python 3.11 or newer is needed, this is %d.%d (%s): say make PYTHON=python3.11" % (
            sys.version_info[0],
            sys.version_info[1],
            sys.executable,
        )
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError:
        return (
            "this Python has no venv module (on Debian and Ubuntu: apt install python3-venv): "
            "install it, or say make PYTHON=... with another Python"
        )
    # From nothing each time: a dependency that was dropped, or another Python, takes effect too.
    venv.create(folder, with_pip=True, clear=True, symlinks=os.name != "nt")
    python = os.path.join(folder, "Scripts" if os.name == "nt" else "bin", "python")
    print("set-up: installing into %s (a few minutes the first time)" % folder, flush=True)
    if brings_cuda(python) and not has_nvidia_driver() and not install_cpu_torch(python):
        print("set-up: no CPU build of PyTorch was to be had; pip's, with CUDA, does as well")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.call([*pip, *PINNED, "--editable", PROJECT]) != 0:
        return "pip could not install the packages: its last lines above say why"
    with open(os.path.join(folder, "ready"), "w") as ready:
        ready.write("made by tools/setup_venv.py\n")
    return None


def has_nvidia_driver():
    """Whether CUDA's libraries could be of use."""
    return os.path.exists("/proc/driver/nvidia/version")


def brings_cuda(python):
    """Whether pip, left to itself, installs CUDA's libraries with torch: 5.5 GB, on Linux alone."""
    if not sys.platform.startswith("linux"):
        return False
    asked = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*asked, *PINNED, "torch"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:  # the installation itself will say why
        return False
    names = [each["metadata"]["name"] for each in json.loads(done.stdout.decode())["install"]]
    return any(name.lower().startswith(("nvidia-", "cuda-")) for name in names)


def install_cpu_torch(python):
    """Install torch from where the CPU builds lie, which uv knows; whether that went well."""
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"]
    uv = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    uv += ["--torch-backend", "cpu", *PINNED, "torch"]
    return subprocess.call(pip) == 0 and subprocess.call(uv) == 0


if __name__ == "__main__":
    problem = main(sys.argv[1])
    if problem:
        sys.exit("set-up: " + problem)
