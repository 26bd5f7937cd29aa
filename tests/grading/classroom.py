"""A small graded class, made with nbgrader's own API: what report, export and similarity are tested on."""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode, v4

from cnlab.grading.steps import journal
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.journal import Journal

LAB = "lab01-sums"
DUE = datetime.datetime(2026, 11, 22, 20, 0)
STUB = "def total(numbers):\n    # YOUR CODE HERE\n    raise NotImplementedError()"
POINTS = {"check-total": 2.0, "check-total-empty": 1.0, "check-mean": 3.0, "question": 4.0}
CONFIG = """
from pathlib import Path
c = get_config()
c.CourseDirectory.course_id = "sums"
c.CourseDirectory.root = str(Path(__file__).parent)
"""


@dataclass
class Work:
    """What a student handed in, and what came of it; `scores` that are None wait for a person."""

    total: str = STUB
    scores: Mapping[str, float | None] = field(default_factory=lambda: dict(POINTS))
    by_hand: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # points and extra credit
    reasons: Mapping[str, str] = field(default_factory=dict)
    late_h: float = -5.0
    penalty: float = 0.0
    events: Sequence[Mapping[str, str | int | None]] = ()
    repairs: Sequence[str] = ()
    notes: Sequence[str] = ()
    error: str = ""
    wall_s: float = 0.5
    has_journal: bool = True


def source() -> NotebookNode:
    """The lab as its author wrote it."""
    return v4.new_notebook(
        cells=[
            v4.new_markdown_cell("# Lab 1\n\nNumbers."),
            v4.new_markdown_cell("## Task 1 · Add up (3 points)\n\nHow?"),
            _cell("code", STUB, "total", solution=True),
            _cell("code", "assert total([1]) == 1", "check-total", points=2),
            _cell("code", "assert total([]) == 0", "check-total-empty", points=1),
            v4.new_markdown_cell("## Task 2 · $\\mu$ & <more> (3 points)"),
            _cell("code", "def mean(numbers):\n    raise NotImplementedError()", "mean", solution=True),
            _cell("code", "assert mean([1]) == 1", "check-mean", points=3),
            v4.new_markdown_cell("## Question (4 points)"),
            _cell("markdown", "Because?", "question", points=4, solution=True),
        ]
    )


def make_course(
    root: Path, work: Mapping[str, Work | None], names: Mapping[str, tuple[str, str]] = {}
) -> Course:
    """Make a course in which these students have been graded; who has no work has handed in nothing."""
    shutil.copytree(_empty_course().name, root, dirs_exist_ok=True)
    course = Course.load(root)
    for place in (course.source(LAB), course.release(LAB)):
        _write(source(), place)
    with course.gradebook() as gradebook:
        gradebook.add_assignment("lab02", duedate=DUE)  # nobody has handed it in
        _add_lab(gradebook)
        for student, done in work.items():
            first, last = names.get(student, ("", ""))
            gradebook.add_student(student, first_name=first, last_name=last, email=f"{student}@example.org")
            if done:
                _add_work(course, gradebook, student, done)
    return course


@cache
def _empty_course() -> tempfile.TemporaryDirectory[str]:
    """A course with an empty gradebook, to copy: nbgrader takes two seconds to make one."""
    place = tempfile.TemporaryDirectory(prefix="cnlab-classroom-")
    os.chmod(place.name, 0o755)  # as a course that is made in its place
    Path(place.name, "nbgrader_config.py").write_text(CONFIG)
    with Course.load(Path(place.name)).gradebook():
        pass
    return place


def _add_lab(gradebook):
    gradebook.add_assignment(LAB, duedate=DUE)
    gradebook.add_notebook(LAB, LAB)
    for name, points in POINTS.items():
        kind = "markdown" if name == "question" else "code"
        gradebook.add_grade_cell(name, LAB, LAB, max_score=points, cell_type=kind)
    for name in ("total", "mean", "question"):
        gradebook.add_solution_cell(name, LAB, LAB)


def _add_work(course, gradebook, student, done):
    at = DUE + datetime.timedelta(hours=done.late_h)
    with gradebook.db.no_autoflush:  # nbgrader's own method draws a warning from SQLAlchemy without it
        submission = gradebook.add_submission(LAB, student, timestamp=at)
    submission.notebooks[0].late_submission_penalty = done.penalty
    for grade in submission.notebooks[0].grades:
        score = done.scores.get(grade.name)
        grade.auto_score, grade.needs_manual_grade = score, score is None
        if grade.name in done.by_hand:
            grade.manual_score, grade.extra_credit = done.by_hand[grade.name]
    gradebook.db.commit()
    notebook = source()
    notebook.cells[2].source = done.total
    for cell in notebook.cells:
        reason = done.reasons.get(cell.metadata.get("nbgrader", {}).get("grade_id"))
        if reason:
            name, _, message = reason.partition(": ")
            cell.outputs = [v4.new_output("error", ename=name, evalue=message, traceback=[])]
    _write(notebook, course.autograded(student, LAB))
    if done.has_journal:
        journal.write(course, _journal(student, done))


def _journal(student, done):
    cells = [
        {
            "notebook": LAB,
            "grade_id": name,
            "points": points,
            "score": done.scores.get(name),
            "status": "failed" if name in done.reasons else "ok",
            "reason": done.reasons.get(name, ""),
            "wall_s": 0.1,
        }
        for name, points in POINTS.items()
        if name != "question"
    ]
    return Journal(
        student,
        LAB,
        "0" * 64,
        "1" * 64,
        "2026-11-22T21:00:00Z",
        late_s=max(0.0, done.late_h * 3600),
        wall_s=done.wall_s,
        usage={"cpu_s": 0.3, "memory_bytes": 80e6},
        cells=tuple(cells),
        events=tuple(done.events),
        repairs=tuple(done.repairs),
        notes=tuple(done.notes),
        notebooks=(LAB,),
        error=done.error,
    )


def _cell(kind, text, name, *, points=None, solution=False):
    cell = v4.new_code_cell(text) if kind == "code" else v4.new_markdown_cell(text)
    graded = points is not None
    cell.metadata["nbgrader"] = {
        "grade": graded,
        "grade_id": name,
        "locked": graded and not solution,
        "schema_version": 3,
        "solution": solution,
        "task": False,
    } | ({"points": points} if graded else {})
    return cell


def _write(notebook, directory):
    directory.mkdir(parents=True)
    nbformat.write(notebook, directory / f"{LAB}.ipynb")
