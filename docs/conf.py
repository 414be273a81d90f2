"""The site: Sphinx on the project's own pages, and on the notebooks as they were executed.

`make site` builds it into build/site. Nothing is executed here, and no page asks the network for
anything.
"""

import inspect
import json
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx

import saetools
import saetools.gradients

ROOT = Path(__file__).resolve().parent.parent
NAVIGATION = {  # what the sidebar shows, under the page that has it
    "README": (ROOT / "docs" / "navigation.md").read_text(encoding="utf-8"),
    "benchmarks/README": "```{toctree}\n:hidden:\n:glob:\n\nresults/*\n```\n",
    "docs/answers/README": "```{toctree}\n:hidden:\n:glob:\n\n[a-z]*\n```\n",
}
# Functions with a name, which docutils sets without a space, and browsers with one on the left.
NAMED = re.compile(r"<m[io]>(ln|log|exp|max|min)</m[io]>(?:\s*<mo>&ApplyFunction;</mo>)?")

project, author, release = "saetools", "The saetools authors", saetools.__version__
copyright = f"{author}, MIT licence"  # noqa: A001
language = "en_GB"
root_doc = "README"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
include_patterns = ["*.md", "docs/**", "notebooks/*", "benchmarks/**.md", "saetools/data/*.md"]
exclude_patterns = [".*", "build", "dist", "lecture-version", "tests", "docs/navigation.md"]
exclude_patterns += ["**/.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

default_role = "py:obj"  # `name` in a docstring: code, and a link where there is something to see
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_display_short_literal_types = True
maximum_signature_line_length = 100  # a longer one has a line for each parameter

html_theme = "sphinx_book_theme"
html_title = "saetools"
html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system has it
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_domain_indices = html_use_index = False  # the search finds every name
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "footer_content_items": ["copyright.html"],
    "navbar_persistent": [],  # the sidebar has the search
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def change_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """The README gets the site's navigation, a notebook its executed copy and its alt texts."""
    source[0] += NAVIGATION.get(docname, "")
    if not docname.startswith("notebooks/"):
        return
    name = f"{PurePosixPath(docname).name}.ipynb"
    executed = Path(app.config.executed, name)
    if app.config.executed and executed.exists():
        source[0] = executed.read_text(encoding="utf-8")
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if alt:  # MyST-NB takes it from the cell
                cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
    source[0] = json.dumps(notebook)


def leave_out(app: Sphinx, what: str, name: str, obj: Any, skip: bool, _: Any) -> bool | None:
    """Only what a room offers is in the reference; the tutorial offers all that it has."""
    del app, what, _
    room, own = getattr(obj, "__module__", None) or "", getattr(obj, "__qualname__", name)
    if "." in own or not room.startswith("saetools.") or room.startswith("saetools.tutorial"):
        return None
    offered = {*saetools.__all__, *saetools.gradients.__all__, "SparseAutoencoderTransformer"}
    return skip or name not in offered


def link_to_pages(app: Sphinx, document: nodes.document) -> None:
    """A link to a file of the package leads to the page that shows it."""
    here = PurePosixPath(app.env.docname)
    for link in list(document.findall(addnodes.download_reference)):
        path = os.path.normpath(here.parent / link["reftarget"])
        if not (path.startswith("saetools/") and path.endswith(".py")):
            continue
        page = f"_modules/{path.removesuffix('.py')}"
        if path.endswith("__init__.py"):
            page = f"docs/reference/{PurePosixPath(path).parent.name}"
        uri = app.builder.get_relative_uri(str(here), page)
        link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))


def describe_field(app: Sphinx, what: str, name: str, obj: Any, _: Any, lines: list[str]) -> None:
    """The field of a named tuple says what its comment says; Python's own words say nothing."""
    del app, what, obj, _
    if not (lines and lines[0].startswith("Alias for field number")):
        return
    kind, field = name.rsplit(".", 1)
    module, kind = kind.rsplit(".", 1)
    source = inspect.getsource(getattr(__import__(module, fromlist=[kind]), kind))
    comment = re.search(rf"^    {field}: .*?  # (.*)$", source, re.MULTILINE)
    lines[:] = [comment[1] if comment else ""]


def visit_math(self: Any, node: nodes.math) -> None:
    """MathML, which browsers show by themselves: no script, and no font from the network."""
    block = isinstance(node, nodes.math_block)
    mathml = tex2mathml(node.astext(), as_block=block)
    self.body.append(NAMED.sub(r'<mo lspace="0.1em" rspace="0.1em">\1</mo>', mathml))
    raise nodes.SkipNode


def list_parameters(*arguments: Any) -> None:
    """The parameters of a long signature are a list, and no definitions without terms."""
    context = arguments[3]
    listed = re.sub(r"<dl>\n(?=<dd>)", '<ul class="parameters">\n', context.get("body") or "")
    parts = re.split(r'(<ul class="parameters">.*?)</dl>', listed, flags=re.DOTALL)
    for place, part in enumerate(parts):
        if part.startswith('<ul class="parameters">'):
            parts[place] = part.replace("<dd>", "<li>").replace("</dd>", "</li>") + "</ul>"
    context["body"] = "".join(parts)


def first_page(app: Sphinx, exception: Exception | None) -> None:
    """The README is the first page, by the name under which a server looks for it."""
    if exception is None:
        shutil.copy(app.outdir / f"{app.config.root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    # -D executed=FOLDER shows the notebooks in it in place of the committed ones.
    app.add_config_value("executed", "", "env")
    app.connect("source-read", change_source)
    app.connect("doctree-read", link_to_pages, priority=100)  # before files are taken along
    app.connect("autodoc-skip-member", leave_out)
    app.connect("autodoc-process-docstring", describe_field)
    app.connect("html-page-context", list_parameters)
    app.connect("build-finished", first_page)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
