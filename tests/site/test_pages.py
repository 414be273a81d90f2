"""The site as files: every link leads somewhere, every picture has words, every name is there."""

import html
import re
import subprocess
import sys

import nbformat
import pytest
from faults import faults_in, pages_in
from nbformat.v4 import new_code_cell, new_notebook, new_output
from notebook_tools import NOTEBOOKS, ROOT, code_cells, read

import saetools
import saetools.gradients

pytestmark = pytest.mark.slow


def text_of(path):
    return html.unescape(re.sub(r"<[^>]*>", "", path.read_text(encoding="utf-8")))


def test_it_has_no_fault(site):
    assert list(faults_in(site)) == []
    assert len(pages_in(site)) > 60


def test_the_readme_is_the_first_page_and_leads_to_all_others(site):
    first = (site / "index.html").read_text(encoding="utf-8")
    assert first == (site / "README.html").read_text(encoding="utf-8")
    for page in ("docs/recipes", "docs/distributed", "docs/forum_answer", "CHANGELOG"):
        assert f'href="{page}.html"' in first
    for path in NOTEBOOKS:
        assert f'href="notebooks/{path.stem}.html"' in first
    # links to files of the package lead to pages, too
    assert 'href="_modules/saetools/frequency.html"' in first
    assert 'href="docs/reference/gradients.html"' in first


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_comes_with_its_outputs_and_its_alt_texts(site, path):
    page = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
    seen = " ".join(text_of(site / "notebooks" / f"{path.stem}.html").split())
    outputs = [output for cell in code_cells(read(path)) for output in cell.outputs]
    alts = {o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})}
    assert alts == {html.unescape(alt) for alt in re.findall(r'<img alt="([^"]*)"', page)}
    for output in outputs:
        if output.output_type == "stream":
            assert " ".join(output.text.split()) in seen


def test_every_public_name_is_there_with_its_docstring(site):
    pages = {path: text_of(path) for path in (site / "docs" / "reference").glob("*.html")}
    seen = " ".join(" ".join(pages.values()).split())
    anchors = "".join(path.read_text(encoding="utf-8") for path in pages)
    for module in (saetools, saetools.gradients):
        for name in module.__all__:
            thing = getattr(module, name)
            assert f'id="{thing.__module__}.{name}"' in anchors, name
            first = re.split(r"[.`:*<>&'\"]", thing.__doc__)[0].split()[:6]
            assert " ".join(first) in seen, name
    assert 'id="saetools.reuse.sklearn.SparseAutoencoderTransformer.partial_fit"' in anchors
    assert "saetools.training.guards.check_loop" not in anchors  # not offered


def test_a_field_of_a_named_tuple_says_what_its_comment_says(site):
    page = text_of(site / "docs" / "reference" / "training.html")
    assert "Alias for field" not in page
    assert "what a sparsity penalty must see" in page


def test_an_index_does_not_stand_under_its_accent(site):
    accent = r"[\u02c6^~\u00af]</mo>\s*</munderover>"
    wrong = re.compile(rf"<munderover>(?:(?!</munderover>).)*{accent}", re.DOTALL)
    pages = {page.name for page in site.rglob("*.html") if wrong.search(page.read_text("utf-8"))}
    assert pages == set(), r"write \hat\rho{}_j, and not \hat\rho_j"


def test_mathematics_is_set_without_a_script(tmp_path):
    page = build(tmp_path, {"one.md": "# A\n\nA target $\\rho$, and\n\n$$\\frac{1}{2}$$\n"})
    assert "<mi>\N{GREEK SMALL LETTER RHO}</mi>" in page
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in page
    assert "<mfrac>" in page
    assert "mathjax" not in "".join(re.findall(r"<script.*?</script>", page, re.DOTALL)).lower()


def test_executed_notebooks_take_the_place_of_the_committed(tmp_path):
    committed, executed = (
        new_notebook(
            cells=[
                nbformat.v4.new_markdown_cell("# A"),
                new_code_cell("1", outputs=[new_output("stream", text=says)]),
            ]
        )
        for says in ("as committed", "as executed")
    )
    (tmp_path / "run").mkdir()
    nbformat.write(executed, tmp_path / "run" / "one.ipynb")
    book = {"notebooks/one.ipynb": nbformat.writes(committed)}
    assert "as committed" in build(tmp_path / "a", book)
    assert "as executed" in build(tmp_path / "b", book, "-D", f"executed={tmp_path / 'run'}")


def build(folder, files, *options):
    """The first of these files as a page of a site that has no other."""
    for name, text in files.items():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    [root, *_] = [name.rpartition(".")[0] for name in files]
    run = [sys.executable, "-m", "sphinx", "-q", "-c", str(ROOT / "docs")]
    settings = ["-D", f"root_doc={root}", "-D", "include_patterns=**", *options]
    subprocess.run(
        [*run, *settings, str(folder / "source"), str(folder / "out")], check=True, cwd=ROOT
    )
    return (folder / "out" / f"{root}.html").read_text(encoding="utf-8")


PAGE = '<h1 id="top">A</h1><a href="b.html#there">B</a><img src="c.png" alt="A curve that falls">'
FAULTS = {
    ("b.html#there", "b.html#gone"): "a.html: b.html#gone has no such place",
    ("b.html#there", "gone.html"): "a.html: gone.html leads nowhere",
    ("A curve that falls", ""): "a.html: c.png has no alt text, or next to none: ''",
    ("c.png", "https://example.org/c.png"): "a.html: loads https://example.org/c.png",
}


@pytest.mark.parametrize(("old", "new"), FAULTS)
def test_a_fault_is_found(tmp_path, old, new):
    (tmp_path / "c.png").touch()
    (tmp_path / "b.html").write_text('<p id="there">', encoding="utf-8")
    (tmp_path / "a.html").write_text(PAGE, encoding="utf-8")
    assert list(faults_in(tmp_path)) == []
    (tmp_path / "a.html").write_text(PAGE.replace(old, new), encoding="utf-8")
    assert list(faults_in(tmp_path)) == [FAULTS[old, new]]
