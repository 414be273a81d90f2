"""The site, built once, and a browser to look at it."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from notebook_tools import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the site: the one that SITE names, or a new one."""
    if named := os.environ.get("SITE"):
        return Path(named).resolve()
    folder = tmp_path_factory.mktemp("site")
    run = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs"]
    folders = ["-d", str(folder / "doctrees"), ".", str(folder / "site")]
    done = subprocess.run([*run, *folders], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder / "site"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def served():
    """A function that serves a folder, and returns its address."""
    servers = []

    def serve(folder):
        handler = functools.partial(Quiet, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright: make site-test installs it"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium: on Debian and Ubuntu, apt install chromium")
    with playwright.sync_playwright() as tool:
        yield tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def axe():
    name = "axe_playwright_python.sync_playwright"
    return pytest.importorskip(name, reason="no axe: make site-test installs it").Axe()
