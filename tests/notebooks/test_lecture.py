"""The empty lecture version: nothing that answers is left, all else is, and it runs."""

import re
import sys

import pytest
from notebook_tools import NOTEBOOKS, ROOT, code_cells, exercises, read, solution, tagged

sys.path.insert(0, str(ROOT / "tools"))
from lecture import NOTES, YOURS, emptied, main, solutions

from notebooks import execute

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def text(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@every_notebook
def test_marks_come_in_pairs(path):
    marks = re.findall(r"<!-- (/?answer) -->", text(read(path)))
    assert marks == ["answer", "/answer"] * (len(marks) // 2)
    for cell in read(path).cells:
        assert cell.source.count("<!-- answer -->") == cell.source.count("<!-- /answer -->")


@every_notebook
def test_nothing_that_answers_is_left(path):
    notebook = read(path)
    empty = emptied(notebook)
    assert all(not c.outputs and c.execution_count is None for c in code_cells(empty))
    left = text(empty)
    assert "<details>" not in left
    assert "<!--" not in left
    for number in exercises(notebook):
        assert solution(notebook, number).strip() not in left
    assert len(exercises(notebook)) == len(solutions(notebook)) >= 2
    for number in exercises(notebook):  # how hard it is, and how long it takes
        assert re.search(rf"^## Exercise {number} \(.*minutes.*\)$", left, re.MULTILINE)
    assert "**What this shows" not in left
    guesses = text(notebook).count("> **Predict.**")
    assert left.count(NOTES) == len(exercises(notebook))
    answered = left.count(YOURS) - 1  # and "Check yourself"
    assert answered >= guesses - 1, "a guess is answered in the text, and nothing marks it"


@every_notebook
def test_all_else_is_left(path):
    notebook, empty = read(path), emptied(read(path))
    assert [c.source for c in code_cells(empty)] == [c.source for c in code_cells(notebook)]
    assert text(empty).count("> **Predict.**") == text(notebook).count("> **Predict.**")
    titles = re.compile(r"^#+ .*$", re.MULTILINE)
    assert titles.findall(text(empty)) == titles.findall(text(notebook))
    assert all(cell.source for cell in empty.cells)


@every_notebook
def test_solutions_are_put_back(path):
    notebook = read(path)
    full = emptied(notebook, with_solutions=True)
    for number in exercises(notebook):
        [stub], [filled] = (tagged(n, f"exercise-{number}") for n in (notebook, full))
        assert filled.source == solution(notebook, number).rstrip()
        assert stub.source.partition("(")[0] in filled.source


def test_an_answer_that_is_not_marked_is_noticed():
    [path] = [path for path in NOTEBOOKS if path.name.startswith("03")]
    spoiled = read(path)
    for cell in spoiled.cells:
        cell.source = cell.source.replace("<!-- answer -->\n", "").replace("<!-- /answer -->", "")
    assert text(emptied(spoiled)).count(YOURS) == 1


def test_they_are_written_beside_the_notebooks(tmp_path, monkeypatch, capsys):
    import lecture

    (tmp_path / "notebooks").mkdir()
    for path in NOTEBOOKS[:2]:
        (tmp_path / "notebooks" / path.name).write_text(path.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(lecture, "ROOT", tmp_path)
    main([])
    assert "2 notebooks" in capsys.readouterr().out
    written = tmp_path / "lecture-version" / NOTEBOOKS[1].name
    assert read(written) == emptied(read(NOTEBOOKS[1]))
    written.write_text(written.read_text("utf-8").replace(YOURS, "It falls."), "utf-8")
    with pytest.raises(SystemExit, match="perhaps with answers"):  # a student's work stays
        main([])
    assert "It falls." in written.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.nightly
@every_notebook
def test_it_runs_with_the_solutions_put_back(path, monkeypatch):
    monkeypatch.setattr("notebooks.CELL_SECONDS", 300)  # it is answers that count here
    done = execute(emptied(read(path), with_solutions=True), path.parent)
    for number in exercises(done):
        [check] = tagged(done, f"check-{number}")
        assert f"Exercise {number}: correct." in check.outputs[0].text
