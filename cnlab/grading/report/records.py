"""A class and one assignment, as the gradebook, the journals and the notebooks have it, in plain data.

Interface: `read_class` reads all of it once; report and export work on what it returns. Where our own grading
left no journal, because nbgrader's own autograde ran, what the checks said is read from the outputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnlab.errors import CnlabError

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from cnlab.grading.steps.course import Course
    from cnlab.grading.steps.journal import Journal

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class NoSuchAssignment(CnlabError):  # noqa: N818 - reads as the claim it makes
    """The gradebook does not know the assignment; the message lists those that it knows."""


@dataclass(frozen=True, slots=True)
class Check:
    """A graded cell: its name, what it is worth, and the heading of the task that it stands under."""

    notebook: str
    name: str
    points: float
    task: str
    is_manual: bool  # a person grades it


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the run of one check went; `reason` is what a failed one said, in one text."""

    status: str
    reason: str = ""
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """What the sandbox refused or ended, and in which cell where that is known."""

    kind: str
    text: str
    cell: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """How grading a submission went, as its journal says."""

    outcomes: Mapping[tuple[str, str], Outcome] = field(default_factory=dict)  # by notebook and check
    events: tuple[Event, ...] = ()
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    attempts: int = 1
    wall_s: float | None = None
    cpu_s: float | None = None
    memory_bytes: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """Points for a check, extra credit included, and whether a person still has to look at it."""

    points: float
    needs_person: bool = False


@dataclass(frozen=True, slots=True)
class Submission:
    """What a student handed in: `at` is in UTC, without a time zone, as nbgrader keeps it."""

    at: datetime | None
    late_s: float
    penalty: float
    scores: Mapping[tuple[str, str], Score]  # by notebook and check
    run: Run = field(default_factory=Run)

    @property
    def score(self) -> float | None:
        """All points less the penalty for being late, as nbgrader exports them; None if it did not run."""
        if self.run.error:
            return None
        return max(0.0, sum(score.points for score in self.scores.values()) - self.penalty)

    @property
    def needs_person(self) -> bool:
        """Whether the score is not final: some answer waits for a person."""
        return not self.run.error and any(score.needs_person for score in self.scores.values())


@dataclass(frozen=True, slots=True)
class Student:
    """Somebody in the gradebook, and what they handed in, if they did."""

    id: str
    first_name: str = ""
    last_name: str = ""
    email: str = ""
    lms_user_id: str = ""
    submission: Submission | None = None


@dataclass(frozen=True, slots=True)
class ClassRecord:
    """All students of the gradebook and one assignment."""

    assignment: str
    due: datetime | None
    checks: tuple[Check, ...]
    students: tuple[Student, ...]

    @property
    def max_score(self) -> float:
        """What a perfect submission scores."""
        return sum(check.points for check in self.checks)

    @property
    def submitted(self) -> list[tuple[Student, Submission]]:
        """Those who handed something in."""
        return [(student, student.submission) for student in self.students if student.submission]


def read_class(course: Course, assignment: str) -> ClassRecord:
    """Read what is known about `assignment`.

    Raises:
        NoSuchAssignment: the gradebook has none of that name.
    """
    from nbgrader.api import MissingEntry

    with course.gradebook() as gradebook:
        try:
            found = gradebook.find_assignment(assignment)
        except MissingEntry:
            known = ", ".join(sorted(each.name for each in gradebook.assignments)) or "none yet"
            raise NoSuchAssignment(
                f"gradebook({course.root}): no assignment {assignment!r}; it knows: {known}"
            ) from None
        scores = _read_scores(gradebook, assignment)
        submissions = {each.student_id: each for each in found.submissions}
        students = tuple(
            Student(
                each.id,
                each.first_name or "",
                each.last_name or "",
                each.email or "",
                each.lms_user_id or "",
                _submission(course, assignment, submissions[each.id], scores.get(each.id, {}))
                if each.id in submissions
                else None,
            )
            for each in sorted(gradebook.students, key=_by_name)
        )
        return ClassRecord(assignment, found.duedate, tuple(_checks(course, found)), students)


def tasks_of(notebook: NotebookNode) -> dict[str, str]:
    """Return for each of nbgrader's cells the heading it stands under, without the points in brackets."""
    title, tasks = "", {}
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        headings = re.findall(r"^#+\s+(.+?)\s*$", cell.source, flags=re.MULTILINE)
        if cell.cell_type == "markdown" and headings and not name:
            title = re.sub(r"\s*\([^()]*points?\)$", "", headings[0])
        if name:
            tasks[name] = title or name
    return tasks


def failures_in(notebook: NotebookNode) -> dict[str, Outcome]:
    """Return how each graded cell went, as far as its outputs tell."""
    outcomes = {}
    for cell in notebook.cells:
        graded = cell.metadata.get("nbgrader", {})
        if graded.get("grade") and cell.cell_type == "code":
            errors = [each for each in cell.outputs if each.output_type == "error"]
            said = [f"{each.ename}: {each.evalue}" for each in errors]
            said += [each.text for each in cell.outputs if each.get("name") == "stderr"]
            outcomes[graded["grade_id"]] = Outcome("failed" if said else "ok", plain("\n".join(said)))
    return outcomes


def plain(text: object) -> str:
    """Return `text` without terminal colours and without characters that no file can hold."""
    kept = _ANSI.sub("", str(text)).encode("utf-8", "replace").decode()
    return "".join(char for char in kept if char in "\n\t" or char.isprintable())


def _by_name(student: Any) -> tuple[str, str, str]:
    return student.last_name or "", student.first_name or "", student.id


def _checks(course: Course, found: Any) -> Iterator[Check]:
    import nbformat

    for notebook in found.notebooks:
        path = course.source(found.name) / f"{notebook.name}.ipynb"
        tasks = tasks_of(nbformat.read(path, as_version=4)) if path.is_file() else {}
        answers = {cell.name for cell in notebook.solution_cells}
        order = {name: place for place, name in enumerate(tasks)}
        cells = [(cell, cell.name in answers) for cell in notebook.grade_cells]
        cells += [(cell, True) for cell in notebook.task_cells]
        for cell, is_manual in sorted(
            cells, key=lambda each: (order.get(each[0].name, len(order)), each[0].name)
        ):
            title = tasks.get(cell.name, cell.name)
            yield Check(notebook.name, cell.name, cell.max_score, title, is_manual)


def _read_scores(gradebook: Any, assignment: str) -> dict[str, dict[tuple[str, str], Score]]:
    """Read all scores by student, notebook and check, in one query: a class has ten thousand."""
    from nbgrader.api import Assignment, BaseCell, Grade, Notebook, SubmittedAssignment, SubmittedNotebook

    rows = (
        gradebook.db.query(
            SubmittedAssignment.student_id,
            Notebook.name,
            BaseCell.name,
            Grade.score,
            Grade.needs_manual_grade,
        )
        .select_from(Grade)
        .join(BaseCell, BaseCell.id == Grade.cell_id)
        .join(SubmittedNotebook, SubmittedNotebook.id == Grade.notebook_id)
        .join(Notebook, Notebook.id == SubmittedNotebook.notebook_id)
        .join(SubmittedAssignment, SubmittedAssignment.id == SubmittedNotebook.assignment_id)
        .join(Assignment, Assignment.id == SubmittedAssignment.assignment_id)
        .filter(Assignment.name == assignment)
    )
    scores: dict[str, dict[tuple[str, str], Score]] = {}
    for student, notebook, name, points, needs_person in rows:
        scores.setdefault(student, {})[notebook, name] = Score(_finite(points) or 0.0, bool(needs_person))
    return scores


def _submission(
    course: Course, assignment: str, found: Any, scores: dict[tuple[str, str], Score]
) -> Submission:
    from cnlab.grading.steps import journal

    remembered = journal.read(course, assignment, found.student_id)
    if remembered:
        run = run_of(remembered)
    else:
        run = _run_of_outputs(course.autograded(found.student_id, assignment))
    penalty = _finite(found.late_submission_penalty) or 0.0
    return Submission(found.timestamp, found.total_seconds_late, penalty, scores, run)


def run_of(remembered: Journal) -> Run:
    """Return what a journal says; what it quotes from a student is made safe to print."""
    return Run(
        outcomes={
            (cell.get("notebook") or remembered.notebooks[0], cell["grade_id"]): Outcome(
                cell["status"], plain(cell.get("reason") or ""), _finite(cell.get("wall_s")) or 0.0
            )
            for cell in remembered.cells
            if cell["grade_id"]
        },
        events=tuple(
            Event(plain(event["kind"]), plain(event["text"]), _cell(event.get("cell")))
            for event in remembered.events
        ),
        repairs=tuple(map(plain, remembered.repairs)),
        notes=tuple(map(plain, remembered.notes)),
        accepted=remembered.accepted,
        attempts=remembered.attempts,
        wall_s=_finite(remembered.wall_s),
        cpu_s=_finite(remembered.usage.get("cpu_s")),
        memory_bytes=_finite(remembered.usage.get("memory_bytes")),
        error=plain(remembered.error),
    )


def _cell(cell: object) -> str:
    """Call a cell as messages do: by its number from 1 on, if the journal has its index."""
    return str(cell + 1) if isinstance(cell, int) else plain(cell or "")


def _run_of_outputs(directory: Path) -> Run:
    from nbformat import v4

    outcomes: dict[tuple[str, str], Outcome] = {}
    for path in sorted(directory.glob("*.ipynb")):
        found = failures_in(v4.reads(path.read_text(encoding="utf-8")))
        outcomes |= {(path.stem, name): outcome for name, outcome in found.items()}
    return Run(outcomes)


def _finite(number: object) -> float | None:
    return float(number) if isinstance(number, int | float) and math.isfinite(number) else None
