import re
import subprocess
import sys

from notebook_tools import ROOT

import saetools
import saetools.gradients


def test_the_reference_has_every_public_name_with_its_docstring(tmp_path):
    run = [sys.executable, "-W", "error", str(ROOT / "tools" / "reference.py"), str(tmp_path)]
    subprocess.run(run, check=True, cwd=ROOT)
    for module, page in ((saetools, "saetools.html"), (saetools.gradients, "gradients.html")):
        [path] = tmp_path.rglob(page)
        text = path.read_text("utf-8")
        for name in module.__all__:
            assert f'<section id="{name}">' in text
            first = re.split(r"[.`:*<>&]", getattr(module, name).__doc__)[0].split()[:6]
            assert " ".join(first) in " ".join(text.split()), name
    [path] = tmp_path.rglob("sklearn.html")
    assert "SparseAutoencoderTransformer.partial_fit" in path.read_text("utf-8")
