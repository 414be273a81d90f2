"""A notebook that cannot fail proves nothing: break the package, and a cell must fail.

Each break is a copy of the package in which one line is replaced, put in front of the real one
on the path of the notebook's kernel. nbval then compares as it always does.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest
from notebook_tools import NOTEBOOKS, ROOT

# what is broken: (notebook, file, what the line is, what it becomes, what the failing cell says)
BREAKS = {
    "the recipe forgets its penalty": (
        "00",
        "recipe.py",
        "penalty_weight=weight,",
        "penalty_weight=0.0,",
        "claimed at most 0.48",
    ),
    "the posted penalty gets a millionth of a gradient": (
        "01",
        "forum_post.py",
        "rho_hat = (encoded > 0).sum(dim=0)",
        "rho_hat = (encoded > 0).sum(dim=0) + 1e-6 * (encoded - encoded.detach()).sum(dim=0)",
        "gradients that differ",
    ),
    "training goes on after a NaN": (
        "01",
        "training.py",
        "if stop_if_not_finite and not math.isfinite(loss.item())",
        "if False",
        "Missing output fields",
    ),
    "the penalty needs no help at its ends": (
        "02",
        "penalties.py",
        "estimate = rho_hat.to(exact)\n",
        "estimate = rho_hat.to(exact).clamp(0.001, 0.999)\n",
        "no protection",
    ),
    "the posted network has a sigmoid on its output": (
        "02",
        "forum_post.py",
        "output=torch.relu",
        "output=torch.sigmoid",
        "dead output units",
    ),
    "the tracer overlooks cuts": (
        "02",
        "gradients/watch.py",
        "if not seen.carries and (requires or is_number) and not _writes_itself(seen, written):",
        "if False:",
        "zeroed at torch.relu",
    ),
    "the straight-through count has the soft count's value": (
        "03",
        "frequency.py",
        "return activation_frequency(pre_activations, dim=dim) + (soft - soft.detach())",
        "return soft",
        "agrees: False",
    ),
    "smoothing is a clamp": (
        "04",
        "frequency.py",
        "return exact.lerp(half, 2 * eps)",
        "return exact.clamp(eps, 1 - eps)",
        "smoothing: False",
    ),
    "units are shifted, and not scaled": (
        "05",
        "init.py",
        "_scale_rows(code, spread)",
        "pass",
        "assert torch.allclose(own, other, atol=0.01)",
    ),
    "the recipe holds, and does not shift": (
        "06",
        "recipe.py",
        "target_frequency_(bias, pre_activations, rho, tolerance=tolerance)",
        "pass",
        "claimed at most 0.05",
    ),
}


@pytest.mark.parametrize("broken", BREAKS.values(), ids=list(BREAKS))
def test_a_broken_package_fails_a_cell(tmp_path, broken):
    number, file, old, new, says = broken
    shutil.copytree(ROOT / "saetools", tmp_path / "saetools")
    path = tmp_path / "saetools" / file
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1
    path.write_text(source.replace(old, new), encoding="utf-8")
    [notebook] = [path for path in NOTEBOOKS if path.name.startswith(number)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", str(notebook)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    assert re.search(r"FAILED notebooks/.*::Cell \d+", done.stdout)
    assert says in done.stdout, done.stdout
