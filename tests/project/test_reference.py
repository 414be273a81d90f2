import html
import re
import subprocess
import sys

import pytest
from notebook_tools import ROOT

import saetools
import saetools.gradients

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The text of each page, by its name."""
    folder = tmp_path_factory.mktemp("reference")
    run = [sys.executable, "-W", "error", str(ROOT / "tools" / "reference.py"), str(folder)]
    subprocess.run(run, check=True, cwd=ROOT)
    return {path.name: path.read_text("utf-8") for path in folder.rglob("*.html")}


def test_every_public_name_is_there_with_its_docstring(pages):
    for module, page in ((saetools, "saetools.html"), (saetools.gradients, "gradients.html")):
        text = pages[page]
        for name in module.__all__:
            assert f'<section id="{name}">' in text
            first = re.split(r"[.`:*<>&]", getattr(module, name).__doc__)[0].split()[:6]
            assert " ".join(first) in " ".join(text.split()), name
    assert "SparseAutoencoderTransformer.partial_fit" in pages["sklearn.html"]


def test_a_field_of_a_named_tuple_says_what_its_comment_says(pages):
    assert not any("Alias for field" in text for text in pages.values())
    said = re.search(
        r'id="Output.pre_activations".*?docstring">(.*?)</div>', pages["saetools.html"], re.DOTALL
    )
    assert "what a sparsity penalty must see" in html.unescape(said[1])
