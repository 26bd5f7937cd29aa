"""What is remembered of each graded submission, beside what nbgrader's gradebook has a place for.

Interface: `Journal`, `write`, `read`, `read_all`, `make_private`. One JSON file a submission, in
``.cnlab/runs/ASSIGNMENT/STUDENT.json`` of the course. It is written last and in one step: a submission that
has a journal is finished, one that has none is graded again by the next run.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnlab.grading.steps.course import Course


@dataclass(frozen=True)
class Journal:
    """How the grading of a submission went; times in seconds, `finished` in ISO 8601 and UTC.

    `cells` have ``notebook, grade_id, points, score, status, reason, wall_s``, where a score of None waits
    for a person; `events` have ``kind, text, cell``; `repairs` and `notes` are plain text; `accepted` names
    the parts of the sandbox that were missing.
    """

    student: str
    assignment: str
    submission_sha256: str
    source_sha256: str
    finished: str
    late_s: float = 0.0
    attempts: int = 1
    wall_s: float = 0.0
    usage: Mapping[str, float] = field(default_factory=dict)
    cells: tuple[Mapping[str, Any], ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    notebooks: tuple[str, ...] = ()
    error: str = ""


def write(course: Course, journal: Journal) -> None:
    """Write a journal in one step: whoever reads sees the old one or the new one."""
    make_private(course)
    path = _path(course, journal.assignment, journal.student)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(dataclasses.asdict(journal), indent=1, ensure_ascii=True))
    beside.replace(path)


def make_private(course: Course) -> None:
    """Make the directory that students' marks and hidden messages lie in, and keep others out of it."""
    course.private.mkdir(parents=True, exist_ok=True)
    mode = 0o2770 if course.coursedir.groupshared else 0o700
    if course.private.stat().st_uid == os.geteuid():  # else it is for a colleague to do
        course.private.chmod(mode)


def remove(course: Course, assignment: str, student: str) -> None:
    """Forget that a submission is finished."""
    _path(course, assignment, student).unlink(missing_ok=True)


def read(course: Course, assignment: str, student: str) -> Journal | None:
    """Return the journal of a submission, if it is finished."""
    try:
        fields = json.loads(_path(course, assignment, student).read_text())
        known = {item.name for item in dataclasses.fields(Journal)}
        frozen = {key: _frozen(value) for key, value in fields.items() if key in known}
        return Journal(**frozen)
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None  # one that cannot be read is as good as none: the submission is graded again


def read_all(course: Course, assignment: str, students: Iterable[str] | None = None) -> list[Journal]:
    """Return the journals of an assignment, by student."""
    names = sorted(students) if students is not None else _students(course, assignment)
    return [found for name in names if (found := read(course, assignment, name)) is not None]


def _students(course: Course, assignment: str) -> list[str]:
    directory = course.runs(assignment)
    names = os.listdir(directory) if directory.is_dir() else []
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def _path(course: Course, assignment: str, student: str) -> Path:
    return course.runs(assignment) / f"{student}.json"


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
