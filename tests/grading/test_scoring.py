"""Parts of a check give parts of its points, each with its message, under nbgrader's own commands too."""

from __future__ import annotations

import nbformat
import pytest
from grading.jobs import check, run, student
from nbclient import NotebookClient
from nbgrader.utils import determine_grade

from cnlab.errors import InvalidValue
from cnlab.grading.attempt import execution
from cnlab.grading.scoring import Score

PARTS = """
from cnlab.grading.scoring import Score
score = Score(2)
with score.part(0.5):
    assert area(2, 3) == 6
with score.part(1.5, "an edge case"):
    assert area(-1, 3) == 0, "expected 0 for a negative length"
score.earned
"""
AREA = "def area(x, y): return x * y"


def test_failed_part_costs_its_points_and_tells_its_message():
    """In the sandbox."""
    try:
        ran = run(student(AREA), check(PARTS))
    finally:
        execution.close()
    message = "lost 1.5 of 2 points: an edge case: AssertionError: expected 0 for a negative length"

    assert ran.points() == 0.5
    assert ran.printed("check") == f"{message}\n"
    assert (ran["check"].status, ran["check"].message) == ("ok", message)


def test_stock_nbgrader_gives_the_same_points():
    """It reads the number that the cell ends in."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (AREA, PARTS)])
    notebook.cells[1].metadata["nbgrader"] = {"grade": True, "solution": False, "points": 2, "grade_id": "c"}
    NotebookClient(notebook).execute()

    assert determine_grade(notebook.cells[1]) == (0.5, 2)


def test_parts_that_do_not_add_up_are_the_instructors_mistake():
    """Points nobody could earn, or twice."""
    score = Score(2)
    with score.part(1):
        pass

    with pytest.raises(InvalidValue, match="parts of 1 points in a check of 2"):
        _ = score.earned
    with pytest.raises(InvalidValue, match="parts of 3 points in a check of 2"), score.part(2):
        pass
