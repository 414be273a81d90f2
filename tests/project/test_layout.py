"""The package is small and has rooms: who may import whom, how long a file is, and no twins."""

import ast
import io
import keyword
import subprocess
import sys
import tokenize
from collections import defaultdict

import pytest
from notebook_tools import ROOT

import saetools

PACKAGE = ROOT / "saetools"
FILES = {path.relative_to(PACKAGE): path for path in sorted(PACKAGE.rglob("*.py"))}
IDEA = {"frequency", "penalties", "initialise", "metrics"}
ROOMS = {  # what a room may import of the package, beside its own files
    "data": set(),
    "frequency": {"data.checks"},
    "penalties": {"data.checks", "data.hints", "frequency"},
    "initialise": {"data.checks", "frequency"},
    "metrics": {"data.checks", "frequency"},
    "activations": {"data.checks", *IDEA},
    "training": {"data.checks", "data.hints", *IDEA},
    "gradients": set(),
    "reuse": {"data.checks", *IDEA, "training"},
    "tutorial": {"data", *IDEA, "training", "activations", "gradients", "reuse"},
}
MOST_ENTRIES = 10
MOST_LINES = 250
LONGER = {}  # file: why it may be
TWIN_LINES = 6


def room_of(file):
    return file.parts[0].removesuffix(".py")


def imports(path):
    """The modules that a file imports anywhere, but in its doctests."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            # `from saetools.data import checks` imports saetools.data.checks
            inside = (PACKAGE.parent / name.replace(".", "/")).is_dir()
            modules = [f"{name}.{alias.name}" for alias in node.names if inside]
            yield from modules or [name]


def test_every_room_is_in_the_table():
    assert {room_of(file) for file in FILES} == {*ROOMS, "__init__", "__main__"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_those_below_it(room):
    allowed = tuple(f"saetools.{name}" for name in (room, *ROOMS[room]))
    wrong = [
        f"{file} imports {name}"
        for file, path in FILES.items()
        for name in imports(path)
        if room_of(file) == room and name.startswith((".", "saetools"))
        if not any(f"{name}.".startswith(f"{each}.") for each in allowed)
    ]
    assert wrong == []


def test_gradients_stand_on_torch_alone():
    roots = {
        name.partition(".")[0]
        for file, path in FILES.items()
        if room_of(file) == "gradients"
        for name in imports(path)
    }
    assert roots - sys.stdlib_module_names == {"torch", "saetools"}


def test_import_brings_torch_and_nothing_heavy():
    code = (
        "import sys, torch; before = set(sys.modules);"
        "import saetools; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    heavy = {"matplotlib", "pandas", "sklearn", "scipy", "safetensors", "IPython", "tqdm"}
    assert not heavy & {name.partition(".")[0] for name in loaded}
    own = {name for name in loaded if name.startswith(("saetools.tutorial.", "saetools.gradients"))}
    assert own == {"saetools.tutorial.forum_post", "saetools.tutorial.logits"}
    assert "saetools.reuse.sklearn" not in loaded


def test_the_root_is_seen_at_once():
    every_package_has = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}
    entries = {path.name for path in PACKAGE.iterdir()} - every_package_has
    assert len(entries) <= MOST_ENTRIES, entries


def test_no_file_is_long():
    lengths = {str(file): len(path.read_text("utf-8").splitlines()) for file, path in FILES.items()}
    long = {file: lines for file, lines in lengths.items() if lines > MOST_LINES}
    assert {file: lines for file, lines in long.items() if file not in LONGER} == {}
    assert set(LONGER) <= set(long)


def passages(source):
    """Its lines of code and docstrings, each with its number and as tokens, without comments.

    Imports, lines of brackets alone, and signatures, which are alike on purpose, are left out.
    """
    left_out = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out.update(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            left_out.update(range(node.lineno, node.body[0].lineno))
    lines = defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING and token.start[0] < token.end[0]:
            for number, text in enumerate(token.string.splitlines(), token.start[0]):
                lines[number].append((tokenize.STRING, text.strip()))
        elif token.string.strip() and token.type != tokenize.COMMENT:
            lines[token.start[0]].append((token.type, token.string))
    for number, tokens in sorted(lines.items()):
        says_something = any(any(c.isalnum() for c in text) for _, text in tokens)
        if says_something and number not in left_out:
            yield number, tokens


def without_names(lines):
    """The lines with each name as the place at which it first came."""
    places = {}
    return tuple(
        tuple(
            places.setdefault(text, len(places))
            if kind == tokenize.NAME and not keyword.iskeyword(text)
            else text
            for kind, text in tokens
        )
        for _, tokens in lines
    )


def twins(sources):
    """Where TWIN_LINES lines come again, names apart; in a longer run, each place it starts at."""
    seen, found = {}, []
    for name, source in sources.items():
        lines = list(passages(source))
        for start in range(len(lines) - TWIN_LINES + 1):
            window = lines[start : start + TWIN_LINES]
            there, first, line = seen.setdefault(without_names(window), (name, start, window[0][0]))
            if (there, first) != (name, start) and (there != name or start - first >= TWIN_LINES):
                found.append(f"{name}:{window[0][0]} is {there}:{line}")
    return found


def test_no_passage_stands_twice():
    assert twins({str(f): path.read_text(encoding="utf-8") for f, path in FILES.items()}) == []


def test_a_passage_that_stands_twice_is_found():
    body = ["a = g(x, 1)", "b = a + 1", "c = h(b)", "d = c * x", "e = d", "return e"]
    one = "def f(x):\n" + "".join(f"    {line}\n" for line in body)
    other = one.replace("a ", "z ").replace("f(x)", "another(x, y)").replace("= h", "= k")
    assert twins({"one": one, "other": other}) == ["other:2 is one:2"]
    assert twins({"one": one, "other": other.replace("+ 1", "+ 2")}) == []


def test_every_public_name_is_listed_and_documented():
    for name in saetools.__all__:
        assert getattr(saetools, name).__doc__
    assert saetools.__all__ == sorted(saetools.__all__)
