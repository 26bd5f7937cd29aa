"""A student checks a task in JupyterLab, mends the answer, and checks again."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from labs.course import nbgrader_of, source_of
from nbformat.v4 import new_code_cell

pytestmark = [pytest.mark.browser, pytest.mark.needs_uml, pytest.mark.timeout(200)]

CHECK_TASK = Path(__file__).with_name("check_task.mjs")
LAB = "lab01-namespaces"
RIGHT = "pid = os.fork()\n    if pid == 0:"
WRONG = "syscalls.unshare(flags_for(*kinds))\n    pid = os.fork()\n    if pid == 0:"
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS\n?", re.DOTALL)


def lab_in_progress() -> tuple[nbformat.NotebookNode, str]:
    """The lab with tasks 1 and 2 answered, the caller moved by mistake; and the right answer."""
    notebook = source_of(LAB)
    notebook.cells = notebook.cells[
        : next(n for n, cell in enumerate(notebook.cells) if "## Task 3" in cell.source)
    ]
    for cell in notebook.cells:
        cell.source = HIDDEN.sub("", cell.source)
    place, start = next(
        (n, cell) for n, cell in enumerate(notebook.cells) if nbgrader_of(cell).get("grade_id") == "start"
    )
    right = start.source
    start.source = right.replace(RIGHT, WRONG)
    assert start.source != right
    notebook.cells.insert(place + 1, new_code_cell('from cnlab.grading.check import check\n\ncheck("start")'))
    return notebook, right


def test_card_tells_what_is_wrong_and_then_that_it_is_right(lab):
    """In the private kernel, by the keyboard, in light and in dark."""
    notebook, right = lab_in_progress()
    lab.student.run(["tee", f"{LAB}.ipynb"], input=nbformat.writes(notebook))
    with lab.visit(f"{LAB}.ipynb", CHECK_TASK) as visit:
        failed = visit.see()
        visit.tell(right)
        visit.go_on()
        passed = visit.see()
        visit.go_on()
        dark = visit.see()
        visit.end()

    assert "✗ failed, 0 of 1 point" in failed["said"]
    assert re.search(r"expected\s+the caller of start\(\) to stay in its namespaces", failed["said"])
    assert re.search(r"look\s+at unshare\(2\)", failed["said"])
    assert "4 of 4 points" in passed["said"]
    assert failed["foreign"] == passed["foreign"] == dark["foreign"] == []
