"""A small assignment with one of each kind of cell, and a course of its own to hand it in to and grade it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode, v4

from cnlab.grading.steps.course import Course
from cnlab.grading.steps.release import release

NAME = "ps1"
CONFIG = """
from pathlib import Path
c = get_config()
c.CourseDirectory.course_id = "demo"
c.CourseDirectory.root = str(Path(__file__).parent)
"""
SECRET = 7919
"""A number that stands in a hidden test and nowhere else."""

ANSWERS = {
    "square": "    return x * x",
    "cube": "    return x**3",
    "essay": "Because it is so.",
    "sketch": "drawing = 'by hand'",
}


def claims(grade_id: str, **kinds: object) -> dict[str, Any]:
    """The metadata of a cell of nbgrader's."""
    plain = {"grade": False, "solution": False, "locked": False, "task": False, "schema_version": 3}
    return {"nbgrader": plain | {"grade_id": grade_id} | kinds}


def source() -> NotebookNode:
    """The assignment as its author wrote it: 14 points, of which a person gives 8."""

    def code(grade_id: str, text: str, **kinds: object) -> NotebookNode:
        return v4.new_code_cell(text, id=grade_id, metadata=claims(grade_id, **kinds))

    def text(grade_id: str, text: str, **kinds: object) -> NotebookNode:
        return v4.new_markdown_cell(text, id=grade_id, metadata=claims(grade_id, **kinds))

    def solution(head: str, body: str) -> str:
        indent = body[: len(body) - len(body.lstrip())]
        return f"{head}{indent}### BEGIN SOLUTION\n{body}\n{indent}### END SOLUTION"

    test = {"grade": True, "locked": True}
    return v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[
            v4.new_markdown_cell("# Powers", id="title"),
            code("setup", "import math\n\n\ndef near(a, b):\n    return math.isclose(a, b)", locked=True),
            v4.new_markdown_cell("## Task 1", id="task-1"),
            code("square", solution("def square(x):\n", ANSWERS["square"]), solution=True),
            code(
                "check-square",
                "assert near(square(2), 4), f'expected 4, got {square(2)}; look at the task'\n"
                "### BEGIN HIDDEN TESTS\n"
                f"assert square({SECRET}) == {SECRET**2}, 'expected the square of {SECRET}'\n"
                "### END HIDDEN TESTS",
                points=2,
                **test,
            ),
            v4.new_markdown_cell("## Task 2", id="task-2"),
            code("cube", solution("def cube(x):\n", ANSWERS["cube"]), solution=True),
            code("check-cube", "assert cube(2) == 8, f'expected 8, got {cube(2)}; look'", points=1, **test),
            code("check-partly", "sum([cube(1) == 1, cube(3) == 27]) * 1.5", points=3, **test),
            v4.new_markdown_cell("## Questions", id="questions"),
            text("essay", solution("", ANSWERS["essay"]), grade=True, solution=True, points=4),
            code("sketch", solution("", ANSWERS["sketch"]), grade=True, solution=True, points=2),
            text("drawing", "Draw it on paper.", task=True, locked=True, points=2),
        ],
    )


def make_course(root: Path, notebook: NotebookNode | None = None, config: str = "") -> Course:
    """Make a course with the assignment released; `config` is for what comes after."""
    root.mkdir(parents=True, exist_ok=True)
    if notebook is None:
        shutil.copytree(_released().name, root, dirs_exist_ok=True)
    (root / "nbgrader_config.py").write_text(CONFIG + config)
    course = Course.load(root)
    if notebook is not None:
        _release(course, notebook)
    return course


@cache
def _released() -> tempfile.TemporaryDirectory[str]:
    """A course in which this assignment was released, to copy: nbgrader takes two seconds for it."""
    place = tempfile.TemporaryDirectory(prefix="cnlab-problem-set-")
    os.chmod(place.name, 0o755)  # as a course that is made in its place
    Path(place.name, "nbgrader_config.py").write_text(CONFIG)
    _release(Course.load(Path(place.name)), source())
    return place


def _release(course: Course, notebook: NotebookNode) -> None:
    course.source(NAME).mkdir(parents=True)
    nbformat.write(notebook, course.source(NAME) / f"{NAME}.ipynb")
    list(release(course, NAME, to_exchange=False))


def released(course: Course) -> NotebookNode:
    """What students get."""
    return nbformat.read(course.release(NAME) / f"{NAME}.ipynb", as_version=4)


def cell_of(notebook: NotebookNode, grade_id: str) -> NotebookNode:
    """The first cell that claims this id."""
    return next(
        cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id
    )


def answered(course: Course, answers: Mapping[str, str] = ANSWERS) -> NotebookNode:
    """The release with these answers in it."""
    notebook = copy.deepcopy(released(course))
    for grade_id, answer in answers.items():
        cell = cell_of(notebook, grade_id)
        head = [line for line in cell.source.splitlines() if line.startswith("def ")]
        cell.source = "\n".join([*head, answer])
    return notebook


def submit(
    course: Course, student: str, notebook: NotebookNode | bytes, timestamp: str = "2026-01-01 12:00:00 UTC"
) -> Path:
    """Put a notebook where collecting puts it, and return the directory."""
    directory = course.submitted(student, NAME)
    directory.mkdir(parents=True, exist_ok=True)
    text = notebook if isinstance(notebook, bytes) else json.dumps(notebook).encode()
    (directory / f"{NAME}.ipynb").write_bytes(text)
    (directory / "timestamp.txt").write_text(timestamp)
    return directory


def autograded(course: Course, student: str) -> NotebookNode:
    """The notebook as it ran."""
    return nbformat.read(course.autograded(student, NAME) / f"{NAME}.ipynb", as_version=4)


_SUBMISSIONS = """
    SELECT submitted_assignment.student_id, base_cell.name, base_cell.type, {columns},
           submitted_assignment.timestamp, notebook.name,
           submitted_notebook.late_submission_penalty, submitted_notebook.flagged
    FROM {table}
    JOIN base_cell ON base_cell.id = {table}.cell_id
    JOIN submitted_notebook ON submitted_notebook.id = {table}.notebook_id
    JOIN notebook ON notebook.id = submitted_notebook.notebook_id
    JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id
    ORDER BY 1, 2
"""
_GRADE = "grade.auto_score, grade.manual_score, grade.extra_credit, grade.needs_manual_grade"
_COMMENT = "comment.auto_comment, comment.manual_comment"


def grades(course: Course) -> list[tuple[Any, ...]]:
    """The gradebook's grades without its own keys: student, check, kind of cell, automatic points, ..."""
    return _query(course, _SUBMISSIONS.format(table="grade", columns=_GRADE))


def comments(course: Course) -> list[tuple[Any, ...]]:
    """The gradebook's comments without its own keys."""
    return _query(course, _SUBMISSIONS.format(table="comment", columns=_COMMENT))


def _query(course: Course, query: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(f"file:{course.root}/gradebook.db?mode=ro", uri=True)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def scores(course: Course, student: str) -> dict[str, float | None]:
    """What the gradebook gives a student for each check without a person's doing."""
    return {row[1]: row[3] for row in grades(course) if row[0] == student}
