import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_tools import LONGEST, ROOT

sys.path.insert(0, str(ROOT / "tools"))

import notebooks as tool

starts_kernels = pytest.mark.slow


def notebook(*sources, tags=None):
    cells = [new_code_cell(source) for source in sources]
    cells[-1].metadata["tags"] = tags or []
    return new_notebook(cells=[new_markdown_cell("# A question?"), *cells])


@starts_kernels
def test_execute_fills_outputs_and_counts(tmp_path):
    done = tool.execute(notebook("x = 2", "print(x + 1)"), tmp_path)
    assert done.cells[2].outputs[0].text == "3\n"
    assert [cell.execution_count for cell in done.cells[1:]] == [1, 2]


@starts_kernels
def test_a_failing_cell_is_named(tmp_path):
    with pytest.raises(tool.CellFailedError, match=r"cell 2: ZeroDivisionError: division by zero"):
        tool.execute(notebook("x = 0", "1 / x"), tmp_path)


@starts_kernels
def test_a_cell_that_should_raise_and_does_not_is_named(tmp_path):
    with pytest.raises(tool.CellFailedError, match="cell 1: should raise, and did not"):
        tool.execute(notebook("x = 0", tags=["raises-exception"]), tmp_path)


@starts_kernels
def test_a_kernel_that_dies_is_named(tmp_path):
    with pytest.raises(tool.CellFailedError, match="cell 2: the kernel died"):
        tool.execute(notebook("import os", "os._exit(3)"), tmp_path)


@starts_kernels
def test_a_cell_that_takes_too_long_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "CELL_SECONDS", 1)
    with pytest.raises(tool.CellFailedError, match="cell 1: took over 1 s"):
        tool.execute(notebook("import time; time.sleep(60)"), tmp_path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two notebooks, one good and one bad."""
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "to_pages", lambda folder: f"pages of {folder.name}")
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook("print(1)"), tmp_path / "notebooks" / "01_good.ipynb")
    nbformat.write(notebook("1 / 0"), tmp_path / "notebooks" / "02_bad.ipynb")
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "notebooks").glob("*.ipynb")}


@starts_kernels
def test_run_leaves_the_notebooks_alone_and_names_what_failed(project, capsys):
    before = contents(project)
    said = tool.main(["run"])
    assert "02_bad.ipynb, cell 1: ZeroDivisionError" in said
    assert said.endswith("pages of build")
    assert contents(project) == before
    assert "01_good.ipynb: 2 cells" in capsys.readouterr().out
    made = {path.name: path.read_text("utf-8") for path in (project / "build").iterdir()}
    assert made.keys() == {"01_good.ipynb", "02_bad.ipynb"}
    assert str(project) not in "".join(made.values())


def test_without_sphinx_it_says_what_brings_the_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "find_spec", lambda name: None)
    assert '".[site]"' in tool.to_pages(tmp_path)


@starts_kernels
def test_update_rewrites_good_outputs_alone_and_a_second_time_changes_nothing(project):
    before = contents(project)
    assert "02_bad.ipynb" in tool.main(["update"])
    after = contents(project)
    assert after["01_good.ipynb"] != before["01_good.ipynb"]
    assert after["02_bad.ipynb"] == before["02_bad.ipynb"]
    tool.main(["update"])
    assert contents(project) == after


@starts_kernels
def test_no_notebook_and_broken_notebooks_are_failures(project):
    (project / "notebooks" / "02_bad.ipynb").write_text("{")
    assert tool.main(["run"]).startswith("02_bad.ipynb: ")
    for path in (project / "notebooks").iterdir():
        path.unlink()
    assert tool.main(["run"]) == "there is no notebook in notebooks/"


def test_scrubbing_leaves_nothing_of_the_machine():
    spoiled = notebook("x")
    spoiled.metadata["user"] = "someone"
    spoiled.cells[1].metadata.update(execution={"time": "now"}, tags=["raises-exception"])
    lines = [
        "File \x1b[32m/Users/me/.venv/lib/python3.11/site-packages/torch/_tensor.py:3\x1b[0m, in f",
        "File ~/project/saetools/training/loop.py:129, in train(x)",
        "File ~/my repo/saetools/training/loop.py:129, in train(x)",
        "File C:\\Users\\John Smith\\project\\saetools\\training\\loop.py:129",
        "File /usr/lib/python3.11/contextlib.py:81, in inner",
    ]
    spoiled.cells[1].outputs = [new_output("error", ename="E", evalue="v", traceback=lines)]
    clean = tool.scrub(spoiled)
    assert clean.cells[1].outputs[0].traceback == [
        "File site-packages/torch/_tensor.py:3, in f",
        "File saetools/training/loop.py:129, in train(x)",
        "File saetools/training/loop.py:129, in train(x)",
        "File saetools\\training\\loop.py:129",
        "File lib/python3.11/contextlib.py:81, in inner",
    ]
    assert set(clean.metadata) == {"kernelspec", "language_info"}
    assert clean.cells[1].metadata == {"tags": ["raises-exception"]}
    assert [cell.id for cell in clean.cells] == ["cell-00", "cell-01"]
    assert tool.scrub(nbformat.from_dict(clean)) == clean


def test_the_files_that_take_longest_are_there():
    assert [file for file in LONGEST if not (ROOT / file).is_file()] == []
