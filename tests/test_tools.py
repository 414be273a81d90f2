import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_tools import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import notebooks as tool


def notebook(*sources, tags=None):
    cells = [new_code_cell(source) for source in sources]
    cells[-1].metadata["tags"] = tags or []
    return new_notebook(cells=[new_markdown_cell("# A question?"), *cells])


def test_execute_fills_outputs_and_counts(tmp_path):
    done = tool.execute(notebook("x = 2", "print(x + 1)"), tmp_path)
    assert done.cells[2].outputs[0].text == "3\n"
    assert [cell.execution_count for cell in done.cells[1:]] == [1, 2]


def test_a_failing_cell_is_named(tmp_path):
    with pytest.raises(tool.CellFailedError, match=r"cell 2: ZeroDivisionError: division by zero"):
        tool.execute(notebook("x = 0", "1 / x"), tmp_path)


def test_a_cell_that_should_raise_and_does_not_is_named(tmp_path):
    with pytest.raises(tool.CellFailedError, match="cell 1: should raise, and did not"):
        tool.execute(notebook("x = 0", tags=["raises-exception"]), tmp_path)


def test_scrubbing_leaves_nothing_of_the_machine():
    spoiled = notebook("x")
    spoiled.metadata["user"] = "someone"
    spoiled.cells[1].metadata.update(execution={"time": "now"}, tags=["raises-exception"])
    lines = [
        "File \x1b[32m/home/me/.venv/lib/python3.11/site-packages/torch/_tensor.py:3\x1b[0m, in f",
        "File ~/project/saetools/training.py:129, in train(x)",
        "File C:\\Users\\me\\project\\saetools\\training.py:129",
    ]
    spoiled.cells[1].outputs = [new_output("error", ename="E", evalue="v", traceback=lines)]
    clean = tool.scrub(spoiled)
    assert clean.cells[1].outputs[0].traceback == [
        "File site-packages/torch/_tensor.py:3, in f",
        "File saetools/training.py:129, in train(x)",
        "File saetools\\training.py:129",
    ]
    assert set(clean.metadata) == {"kernelspec", "language_info"}
    assert clean.cells[1].metadata == {"tags": ["raises-exception"]}
    assert [cell.id for cell in clean.cells] == ["cell-00", "cell-01"]
    assert tool.scrub(nbformat.from_dict(clean)) == clean


def test_the_page_keeps_alt_text():
    alt = 'A curve that falls from 1 to 0, & the word "target"'
    picture = new_output(
        "display_data",
        data={"image/png": "iVBORw0KGgo=", "text/plain": alt},
        metadata={"image/png": {"alt": alt}},
    )
    book = notebook("show()")
    book.cells[1].outputs = [picture]
    html = tool.to_html(book, "A question?")
    assert "<title>A question?</title>" in html
    assert "<script src" not in html  # it can be read without a connection
    assert "cdn" not in html
    assert """alt='A curve that falls from 1 to 0, &amp; the word "target"'""" in html


def test_a_python_that_is_too_old_is_told_so_in_one_line(tmp_path):
    code = (
        "import sys, runpy; sys.version_info = (3, 9, 1);"
        f"sys.argv = ['setup', {str(tmp_path / 'venv')!r}];"
        f"runpy.run_path({str(ROOT / 'tools' / 'setup_venv.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    [line] = done.stderr.splitlines()
    assert line.startswith("set-up: Python 3.11 or newer is needed, this is 3.9")


def test_a_python_without_venv_is_told_so_in_one_line(tmp_path):
    code = (
        "import sys, runpy; sys.modules['ensurepip'] = None;"
        f"sys.argv = ['setup', {str(tmp_path / 'venv')!r}];"
        f"runpy.run_path({str(ROOT / 'tools' / 'setup_venv.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    [line] = done.stderr.splitlines()
    assert "no venv module" in line
