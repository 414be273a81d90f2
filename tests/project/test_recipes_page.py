"""Every block of docs/recipes.md runs, and does what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
DOCS = Path(__file__).resolve().parents[2] / "docs"
SECTION = re.compile(r"^## (.+?)\n(?:(?!^## ).)*?^```python\n(.+?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = dict(SECTION.findall((DOCS / "recipes.md").read_text("utf-8")))
# Lightning 2.6 uses what torch 2.13 is about to drop.
LIGHTNING = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


def test_every_section_has_a_block():
    page = (DOCS / "recipes.md").read_text("utf-8")
    assert list(BLOCKS) == re.findall(r"^## (.+)", page, re.MULTILINE)
    assert len(BLOCKS) == page.count("```python") == 8


@LIGHTNING
@pytest.mark.parametrize("title", BLOCKS)
def test_each_unit_ends_near_the_asked_rate(title):
    with torch.random.fork_rng():  # the blocks seed torch's global generator
        names = {"__name__": "__main__"}
        exec(BLOCKS[title], names)
    frequency = names["frequency"]
    assert frequency.ndim == 1
    assert ((frequency - 0.2).abs() <= 0.05).all(), frequency


def test_the_block_on_ddp_does_so_on_two_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BLOCKS["With DDP"], encoding="utf-8")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*run, str(script)], capture_output=True, text=True, check=True)
    printed = re.findall(r"tensor\(\[(.+?)\]\)", done.stdout)
    assert len(printed) == 2
    assert printed[0] == printed[1]  # both processes know the frequency of the whole
    shares = [float(share) for share in printed[0].split(",")]
    assert len(shares) == 8
    assert all(abs(share - 0.2) <= 0.05 for share in shares)
