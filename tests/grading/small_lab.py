"""A released lab of a few cells, small enough to be checked in a blink."""

from __future__ import annotations

from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


def nbgrader(grade_id: str, **claims: object) -> dict[str, Any]:
    """A cell's metadata as nbgrader writes it."""
    plain = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    return {"nbgrader": plain | {"grade_id": grade_id} | claims}


def answer(grade_id: str, source: str) -> NotebookNode:
    return new_code_cell(source, metadata=nbgrader(grade_id, solution=True))


def check(grade_id: str, points: float, source: str) -> NotebookNode:
    return new_code_cell(source, metadata=nbgrader(grade_id, grade=True, locked=True, points=points))


SQUARE = "def square(x):\n    raise NotImplementedError()"
GREET = "def greet(name):\n    raise NotImplementedError()"
CHECK_SQUARE = """\
# Belief: squares of negative
# numbers are negative.
for x in (3, -3):
    assert square(x) == 9, f"expected 9 for {x}, got {square(x)!r}; look at `**`"
"""


def small_lab() -> NotebookNode:
    """Two tasks, a locked cell with a helper, and an essay that only a person can grade."""
    cells = [
        new_markdown_cell("# Lab 99 · Numbers\n\n## Not a task"),
        new_code_cell("def shout(text):\n    return text.upper()", metadata=nbgrader("setup", locked=True)),
        new_markdown_cell("## Task 1 · Square a number with `square` (3 points)\n\nHow?"),
        answer("square-it", SQUARE),
        check("check-square", 2, CHECK_SQUARE),
        check("check-square-type", 1, "assert type(square(2)) is int, 'expected int, got another; look up'"),
        new_markdown_cell("## Task 2 · Greet (2 points)"),
        answer("greet-them", GREET),
        check("check-greet", 2, "0.5 + 1.5 * (shout(greet('Ada')) == 'HELLO ADA')"),
        new_markdown_cell("## Task 12 · Explain (1 point)"),
        new_markdown_cell("Why?", metadata=nbgrader("why", grade=True, solution=True, points=1)),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return new_notebook(cells=cells, metadata=metadata)


def setup_source() -> str:
    return str(small_lab().cells[1].source)


def write(lab: NotebookNode, path: Any) -> None:
    nbformat.write(lab, path)
