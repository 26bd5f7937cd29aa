"""Small submissions for tests of the execution core, and what came of them."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import nbformat
from grading.sandboxed import accepted
from nbformat import NotebookNode
from nbgrader.utils import determine_grade

from cnlab.grading.attempt.execution import CellResult, Job, Result, run_job

POINTS = 2


def student(source: str, grade_id: str = "task") -> tuple[str, str, str]:
    """A cell that the student wrote."""
    return "student", grade_id, source


def locked(source: str, grade_id: str = "setup") -> tuple[str, str, str]:
    """A locked cell that is not graded."""
    return "setup", grade_id, source


def check(source: str, grade_id: str = "check") -> tuple[str, str, str]:
    """A check of two points."""
    return "test", grade_id, source


def job_of(*cells: tuple[str, str, str], **fields: Any) -> Job:
    """A job with these cells, in this order."""
    notebook = nbformat.v4.new_notebook()
    for role, grade_id, source in cells:
        cell = nbformat.v4.new_code_cell(textwrap.dedent(source).strip("\n"))
        if role == "test":
            cell.metadata["nbgrader"] = {
                "grade_id": grade_id, "points": POINTS, "grade": True, "solution": False, "locked": True,
                "task": False, "schema_version": 3, "cell_type": "code",
            }  # fmt: skip
        notebook.cells.append(cell)
    roles = tuple((role, grade_id) for role, grade_id, _ in cells)
    fields.setdefault("accept", tuple(accepted()))
    return Job("somebody", nbformat.writes(notebook), roles, **fields)  # type: ignore[arg-type]


@dataclass
class Ran:
    """A job's result, by grade id."""

    result: Result

    def __post_init__(self) -> None:
        notebook = nbformat.reads(self.result.notebook, as_version=4)
        nbformat.validate(notebook)
        self._cells: dict[str, tuple[CellResult, NotebookNode]] = {
            cell.grade_id: (cell, notebook.cells[cell.index]) for cell in self.result.cells
        }

    def __getitem__(self, grade_id: str) -> CellResult:
        return self._cells[grade_id][0]

    @property
    def statuses(self) -> dict[str, str]:
        """How each cell went."""
        return {grade_id: cell.status for grade_id, (cell, _) in self._cells.items()}

    def outputs(self, grade_id: str) -> list[NotebookNode]:
        """What the notebook shows below a cell."""
        return list(self._cells[grade_id][1].outputs)

    def printed(self, grade_id: str, name: str = "stdout") -> str:
        """What a cell printed to a stream."""
        return "".join(
            out.text for out in self.outputs(grade_id) if out.output_type == "stream" and out.name == name
        )

    def points(self, grade_id: str = "check") -> float:
        """What nbgrader itself gives for a check."""
        score, _ = determine_grade(self._cells[grade_id][1])
        return float(score)


def run(*cells: tuple[str, str, str], **fields: Any) -> Ran:
    """Run a submission of these cells."""
    result = run_job(job_of(*cells, **fields))
    assert not result.error, result.error
    return Ran(result)
