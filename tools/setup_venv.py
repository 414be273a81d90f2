"""Make a virtual environment and install the project in it.

Usage, in the project's folder: python tools/setup_venv.py FOLDER

It is written for any Python 3, so that a Python that is too old can be told so in one line.
"""

import os
import subprocess
import sys


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
    options = ["--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt"]
    project = ".[notebooks,saving,sklearn,site,test]"
    command = [python, "-m", "pip", "install", *options, "--editable", project]
    if subprocess.call(command) != 0:
        return "pip could not install the packages: its last lines above say why"
    with open(os.path.join(folder, "ready"), "w") as ready:
        ready.write("made by tools/setup_venv.py\n")
    return None


if __name__ == "__main__":
    problem = main(sys.argv[1])
    if problem:
        sys.exit("set-up: " + problem)
