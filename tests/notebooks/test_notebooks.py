"""What strict nbval lets pass: nbval compares outputs, and only where there are some to compare."""

import ast
import base64
import re

import pytest
from notebook_tools import NOTEBOOKS, ROOT, code_cells, exercises, read, solution, tagged

# Of each notebook.
MOST_CELLS, MOST_WORDS = 35, 2500
ALLOWED_TAGS = re.compile(r"imports|raises-exception|(exercise|check|solution)-\d")
MACHINE_PATH = re.compile(
    r"(?:^|[\s\"'(])(?:/(?:home|root|usr|tmp|opt|var|Users|work)/|[A-Za-z]:\\)"
)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def words(notebook):
    text = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return len(re.sub(r"```.*?```|<!--.*?-->", " ", text, flags=re.DOTALL).split())


def faults(notebook):
    """Every way in which a notebook breaks the rules, one line each."""
    found = []
    for position, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        found += [
            f"cell {position}: unknown tag {t}" for t in tags if not ALLOWED_TAGS.fullmatch(t)
        ]
        if MACHINE_PATH.search(str(cell.source) + str(cell.get("outputs", ""))):
            found.append(f"cell {position}: holds an absolute path")
        if cell.cell_type == "code":
            found += [f"cell {position}: {fault}" for fault in code_faults(cell, tags)]
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        found.append(f"execution counts are {counts}: run it from top to bottom")
    if not any(cell.outputs for cell in code_cells(notebook)):
        found.append("no cell has an output")
    if not 20 <= len(notebook.cells) <= MOST_CELLS:
        found.append(f"{len(notebook.cells)} cells")
    if not 1200 <= words(notebook) <= MOST_WORDS:
        found.append(f"{words(notebook)} words")
    if not notebook.cells[0].source.splitlines()[0].endswith("?"):
        found.append("the title is no question")
    return found


def code_faults(cell, tags):
    lines = cell.source.splitlines()
    if len(lines) > (25 if "imports" in tags else 20):
        yield f"{len(lines)} lines"
    if "print(" in cell.source and "def " not in cell.source and not cell.outputs:
        yield "prints, and has no output"
    if "show(figure" in cell.source and not any("data" in output for output in cell.outputs):
        yield "shows a figure, and has none"
    if re.search(r"NBVAL", cell.source, re.IGNORECASE):
        yield "is excused from checking"
    if cell.source.rstrip().endswith(";"):
        yield "ends in a semicolon"
    raised = any(output.output_type == "error" for output in cell.outputs)
    if raised != ("raises-exception" in tags):
        yield f"raised: {raised}, but its tags are {tags}"
    for output in cell.outputs:
        if output.get("name") == "stderr":
            yield "writes to stderr"
        data = output.get("data", {})
        if "image/svg+xml" in data:
            yield "has an SVG figure"
        if "image/png" in data:
            alt = output.metadata.get("image/png", {}).get("alt", "")
            if len(alt) < 40 or alt != data.get("text/plain"):
                yield "has a figure without alt text that nbval compares"
            if not base64.b64decode(data["image/png"]).startswith(b"\x89PNG"):
                yield "has a broken picture"


@every_notebook
def test_notebook_keeps_the_rules(path):
    assert faults(read(path)) == []


def first(notebook, kind):
    """The first output of a kind: "stream", "display_data" or "error"."""
    return next(o for c in code_cells(notebook) for o in c.outputs if o.output_type == kind)


def spoil_all(notebook):
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None


def drop_stream(notebook):
    next(c for c in code_cells(notebook) if c.outputs and "def " not in c.source).outputs = []


def drop_figure(notebook):
    next(c for c in code_cells(notebook) if "show(figure" in c.source).outputs = []


def set_source(text):
    return lambda notebook: code_cells(notebook)[1].update(source=text)


SPOILS = {
    "execution counts are": lambda nb: code_cells(nb)[1].update(execution_count=7),
    "no cell has an output": spoil_all,
    "prints, and has no output": drop_stream,
    "shows a figure, and has none": drop_figure,
    "raised: False": lambda nb: tagged(nb, "raises-exception")[0].update(outputs=[]),
    "raised: True": lambda nb: tagged(nb, "raises-exception")[0].metadata.update(tags=[]),
    "without alt text": lambda nb: first(nb, "display_data").metadata["image/png"].update(alt=""),
    "that nbval compares": lambda nb: first(nb, "display_data").data.update({"text/plain": "x"}),
    "broken picture": lambda nb: first(nb, "display_data").data.update({"image/png": "AAAA"}),
    "SVG figure": lambda nb: first(nb, "display_data").data.update({"image/svg+xml": "<svg/>"}),
    "absolute path": lambda nb: first(nb, "stream").update(text='File "/Users/me/x.py"'),
    "writes to stderr": lambda nb: first(nb, "stream").update(name="stderr"),
    "21 lines": set_source("x = 1\n" * 21),
    "semicolon": set_source("x;"),
    "excused from checking": set_source("# NBVAL_IGNORE_OUTPUT\nx = 1"),
    "unknown tag": lambda nb: code_cells(nb)[1].metadata.update(tags=["nbval-ignore-output"]),
    "3 cells": lambda nb: nb.update(cells=nb.cells[:3]),
    "the title is no question": lambda nb: nb.cells[0].update(source="# A statement"),
    "99 words": lambda nb: nb.cells[0].update(source="# Why?\n" + "word " * 9999),
}


@pytest.mark.parametrize("fault", SPOILS)
def test_a_spoiled_notebook_is_noticed_for_what_is_wrong_with_it(fault):
    notebook = read(NOTEBOOKS[0])
    SPOILS[fault](notebook)
    found = faults(notebook)
    if fault == "99 words":
        assert any(re.search(r"\d{5} words", line) for line in found)
    else:
        assert any(fault in line for line in found), found


def test_a_folder_has_the_numbers_in_order():
    numbers = [int(path.name[:2]) for path in NOTEBOOKS]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@every_notebook
def test_links_resolve(path):
    notebook = read(path)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    targets = set(re.findall(r"\]\((?!https?://)([^)#]+)", text))
    missing = {target for target in targets if not (path.parent / target).exists()}
    assert missing == set()
    place = NOTEBOOKS.index(path)
    neighbours = NOTEBOOKS[max(place - 1, 0) : place] + NOTEBOOKS[place + 1 : place + 2]
    for neighbour in neighbours:
        assert neighbour.name in notebook.cells[0].source, (
            "previous and next stand in the first cell"
        )


SOURCE_LINK = re.compile(r"\[([^\]]*)\]\(\.\./(saetools/[^)]*\.py)\)(?: \(([^):]*))?")


def defined(source, *, package):
    """The names that a module defines, and those that a package exports."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and package:
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def stale_links(notebook, root):
    """Names that stand at a link to a source which lacks them, and imports without a link."""
    stale, linked = [], set()
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for text, file, names in SOURCE_LINK.findall(cell.source):
            path = root / file
            here = defined(path.read_text(encoding="utf-8"), package=path.name == "__init__.py")
            linked |= here
            wanted = re.findall(r"`(\w+)`", text + names)
            stale += [f"{name} is not in {file}" for name in wanted if name not in here]
    [imports] = tagged(notebook, "imports")
    for node in ast.parse(imports.source).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("saetools"):
            stale += [f"no link to {a.name}" for a in node.names if a.name not in linked]
    return stale


@every_notebook
def test_links_to_sources_lead_to_what_they_stand_for(path):
    assert stale_links(read(path), ROOT) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("training/rows.py", "training/loop.py", "batches is not in saetools/training/loop.py"),
        ("`batches`", "`batch`", "batch is not in saetools/training/rows.py"),
        ("[`train`](", "[`trains`](", "trains is not in saetools/training/loop.py"),
        ("[plots](../saetools/tutorial/plots.py), ", "", "no link to plot_runs"),
    ],
)
def test_a_stale_link_is_noticed(old, new, says):
    [path] = [path for path in NOTEBOOKS if path.name.startswith("01")]
    notebook = read(path)
    assert any(old in cell.source for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = cell.source.replace(old, new)
    assert any(says in line for line in stale_links(notebook, ROOT))


def test_a_package_stands_for_what_it_exports_and_a_module_for_what_it_defines():
    source = "from a import b as c\nimport d\nX = Y = 1\nZ: int = 2\ndef f(): g = 1\nclass C: pass"
    assert defined(source, package=False) == {"X", "Y", "Z", "f", "C"}
    assert defined(source, package=True) == {"X", "Y", "Z", "f", "C", "c"}


@every_notebook
def test_solutions_are_right_and_stubs_are_not_answered(path, capsys):
    notebook = read(path)
    [imports] = tagged(notebook, "imports")
    numbers = exercises(notebook)
    assert len(numbers) >= 2
    for number in numbers:
        [stub], [check] = (tagged(notebook, f"{kind}-{number}") for kind in ("exercise", "check"))
        given = notebook.cells[notebook.cells.index(stub) - 1]
        for answer, says in (
            (stub.source, "not answered yet"),
            (solution(notebook, number), "correct"),
        ):
            namespace = {}
            exec(imports.source, namespace)
            if given.cell_type == "code":  # what the exercise is about
                exec(given.source, namespace)
            exec(answer, namespace)
            exec(check.source, namespace)
            assert says in capsys.readouterr().out
        assert "raise NotImplementedError" in stub.source


def test_no_two_notebooks_are_excused_by_the_settings():
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "--nbval " in settings
    assert "--nbval-cell-timeout=60" in settings
    assert "sanitize" not in settings
    assert "nbval-lax" not in settings
