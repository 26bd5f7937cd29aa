"""Give a submission its marks, its autograded directory and its journal, or none of them.

Interface: ``Recorder(course, assignment, books, accept).finish(pending)``. The order is such that a run that
is killed at any instant and started again ends like one that was not:

1. stage the autograded directory beside its place;
2. remove the journal: from here on the submission is unfinished;
3. in one transaction write the marks, swap the directory in, commit;
4. write the journal.
"""

import contextlib
import datetime
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nbgrader import utils

from cnlab.errors import CnlabError
from cnlab.grading.job import CellResult, Result
from cnlab.grading.steps import display, journal
from cnlab.grading.steps.assignment import Assignment
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.directories import put
from cnlab.grading.steps.gradebook import Books, Marks, marks_of, record
from cnlab.grading.steps.journal import Journal
from cnlab.grading.steps.outputs import finished_notebook, unreadable_notebook
from cnlab.grading.steps.repair import Master, Repaired, repair
from cnlab.grading.steps.submission import Submission


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the grading of a submission ended; `error` is empty if it has its marks."""

    student: str
    score: float = 0.0
    max_score: float = 0.0
    notes: tuple[str, ...] = ()
    error: str = ""


@dataclass
class Pending:
    """A submission on its way: its mended notebooks, why others cannot be read, what came of them."""

    student: str
    submission: Submission
    sha256: str
    notebooks: dict[str, Repaired] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)  # notebook: why
    results: dict[str, Result] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether all its notebooks have run."""
        return self.results.keys() == self.notebooks.keys()


class Recorder:
    """Records what came of submissions, one after the other."""

    def __init__(self, course: Course, assignment: Assignment, books: Books, accept: Sequence[str]) -> None:
        self._course = course
        self._assignment = assignment
        self._books = books
        self._accept = tuple(accept)
        journal.make_private(course)
        self._staging = course.private / "staging" / "autograded" / assignment.name
        shutil.rmtree(self._staging, ignore_errors=True)  # of a run that was killed

    def finish(self, pending: Pending) -> Outcome:
        """Give a submission its marks; where that goes wrong, it waits for the next run."""
        why = next((result.error for result in pending.results.values() if result.error), "")
        try:
            if not why:
                return self._graded(pending)
        except Exception as error:  # a full disk, a result that makes no sense: the others are graded
            why = _why(error)
        try:
            return self._failed(pending, why)
        except Exception as error:  # the disk is still full
            with contextlib.suppress(OSError):
                journal.remove(self._course, self._assignment.name, pending.student)
            return Outcome(pending.student, error=f"{why}; this could not be noted: {_why(error)}")

    def _graded(self, pending: Pending) -> Outcome:
        student, name = pending.student, self._assignment.name
        notebooks = {master.name: self._notebook_of(pending, master) for master in self._assignment.masters}
        marks = {notebook: marks_of(cells) for notebook, cells in notebooks.items()}
        for notebook, cells in notebooks.items():
            self._seal(cells, pending.results.get(notebook))
        staged = self._staged(pending, notebooks)
        journal.remove(self._course, name, student)
        timestamp = _timestamp(pending)
        with self._books.transaction() as gradebook:
            late_s = record(
                gradebook, self._course, assignment=name, student=student, timestamp=timestamp, marks=marks
            )
            put(staged, self._course.autograded(student, name))
        journal.write(self._course, self._journal(pending, marks, late_s=late_s))
        shutil.rmtree(staged, ignore_errors=True)  # what stood there before
        scores = [score for found in marks.values() for score in found.scores.values()]
        return Outcome(
            student,
            sum(score.score or 0 for score in scores),
            sum(score.points for score in scores),
            (*pending.notes, *_stopped(pending, marks)),
        )

    def _failed(self, pending: Pending, error: str) -> Outcome:
        """Let a submission that could not be run wait for the next try; marks of an earlier run stay."""
        with self._books.transaction() as gradebook:
            gradebook.update_or_create_student(pending.student)
            submission = gradebook.update_or_create_submission(self._assignment.name, pending.student)
            rows = [grade for notebook in submission.notebooks for grade in notebook.grades]
            if any(grade.auto_score is not None for grade in rows):
                error += " (the gradebook and the formgrader still show the marks of an earlier run)"
        journal.write(self._course, self._journal(pending, {}, error=error))
        return Outcome(pending.student, error=error, notes=tuple(pending.notes))

    def _notebook_of(self, pending: Pending, master: Master) -> dict[str, Any]:
        if master.name in pending.unreadable:
            return unreadable_notebook(repair(master, ()), pending.unreadable[master.name])
        result = pending.results[master.name]
        return finished_notebook(pending.notebooks[master.name], result, self._course.config)

    def _seal(self, notebook: dict[str, Any], result: Result | None) -> None:
        """Leave what may be shown to the student, for nbgrader's feedback is made of it."""
        marks = display.hidden_marks(self._course.config)
        ran = {cell.index: cell for cell in result.cells} if result else {}
        sent = json.loads(result.notebook)["cells"] if result else ()
        for index, cell in enumerate(notebook["cells"]):
            claims = cell["metadata"].get("nbgrader", {})
            if cell["cell_type"] != "code":
                if not claims.get("locked"):
                    cell["source"] = display.harmless_text(cell["source"], cell.get("attachments", ()))
            elif claims.get("grade"):
                how = ran.get(index, CellResult(index, "", "skipped"))
                left_out = len(sent[index]["outputs"]) - len(cell["outputs"]) if sent else 0
                shown = max(0, how.shown - left_out)  # the settings may leave some out, no matter which
                display.seal(cell, status=how.status, shown=shown, line=how.line, marks=marks)

    def _staged(self, pending: Pending, notebooks: Mapping[str, dict[str, Any]]) -> Path:
        """Write the autograded directory beside its place."""
        staged = self._staging / pending.student
        staged.mkdir(parents=True)
        files = self._assignment.files_with(pending.submission.files)
        files |= {f"{name}.ipynb": _spelled(notebook) for name, notebook in notebooks.items()}
        shared = self._course.coursedir.groupshared
        for name, data in files.items():
            path = staged / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o664 if shared else 0o444)
        if shared:
            for directory, _, _ in os.walk(staged):
                os.chmod(directory, 0o2775)
        return staged

    def _journal(
        self, pending: Pending, marks: Mapping[str, Marks], *, late_s: float = 0.0, error: str = ""
    ) -> Journal:
        results = pending.results.values()
        return Journal(
            student=pending.student,
            assignment=self._assignment.name,
            submission_sha256=pending.sha256,
            source_sha256=self._assignment.sha256,
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            late_s=late_s,
            attempts=max((result.attempts for result in results), default=1),
            wall_s=sum(result.wall_s for result in results),
            usage={
                "cpu_s": sum(result.usage.get("cpu_s", 0.0) for result in results),
                "memory_bytes": max(
                    (result.usage.get("memory_peak_bytes", 0) for result in results), default=0
                ),
            },
            cells=tuple(
                entry
                for name, found in marks.items()
                for entry in _entries(
                    name, found, pending.results.get(name), pending.unreadable.get(name, "")
                )
            ),
            events=tuple(asdict(event) for result in results for event in result.events),
            repairs=tuple(pending.notes),
            notes=(*(note for result in results for note in result.notes), *_stopped(pending, marks)),
            accepted=self._accept,
            notebooks=tuple(master.name for master in self._assignment.masters),
            error=error,
        )


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, CnlabError) else f"{type(error).__name__}: {error}"


def _stopped(pending: Pending, marks: Mapping[str, Marks]) -> Iterator[str]:
    """Say which cells that give no points were stopped, or ended their process; checks say so themselves."""
    for name, result in pending.results.items():
        graded = marks[name].scores if name in marks else {}
        for cell in result.cells:
            if cell.status in ("timeout", "died") and cell.grade_id not in graded:
                yield cell.message


def _entries(notebook: str, marks: Marks, result: Result | None, unreadable: str) -> Iterator[dict[str, Any]]:
    """Say for each graded cell how it went."""
    cells = {cell.grade_id: cell for cell in result.cells} if result else {}
    for score in marks.scores.values():
        cell = cells.get(score.grade_id)
        status = cell.status if cell else "skipped" if unreadable else "ok"
        yield {
            "notebook": notebook,
            "grade_id": score.grade_id,
            "points": score.points,
            "score": score.score,
            "status": status,
            "reason": score.problem or (cell.message if cell else unreadable),
            "wall_s": cell.wall_s if cell else 0.0,
        }


def _timestamp(pending: Pending) -> datetime.datetime | None:
    """Return when the work was handed in, as the collecting wrote it, in UTC without saying so."""
    text = pending.submission.files.get("timestamp.txt", b"")[:100].decode(errors="replace").strip()
    if not text:
        return None
    try:
        when = utils.parse_utc(text)
        return when if isinstance(when, datetime.datetime) else None
    except (ValueError, OverflowError, TypeError):
        pending.notes.append("`timestamp.txt` holds no time; nothing is known of when this was handed in")
        return None


def _spelled(notebook: Mapping[str, Any]) -> bytes:
    text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode(errors="replace")
