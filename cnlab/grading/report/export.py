"""Grades for a learning management system: CSV files as Canvas and Moodle import them.

Interface: `write_exports` writes ``canvas.csv`` and ``moodle.csv``, and says in plain sentences what a person
should know before uploading them. `canvas_rows` and `moodle_rows` are the pure part.

Canvas wants the columns Student, ID, SIS User ID, SIS Login ID, Section, then one column an assignment, and
below the headings a row "Points Possible"; it finds a student by ID, then by SIS User ID, then by SIS Login
ID. A blank grade is none. Moodle asks for the column that identifies a user and for the one of the grade; one
user that it does not know ends the whole import, a blank one passes the grade on to the user before, and the
grade of who has none is ``-``.

See: Canvas Instructor Guide, "How do I import grades in the Gradebook?"; docs.moodle.org, "Grade import".
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from cnlab.errors import CnlabError
from cnlab.grading.report.records import ClassRecord, Student, Submission, plain, read_class

if TYPE_CHECKING:
    from cnlab.grading.steps.course import Course

CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
MOODLE = ("Username", "First name", "Last name", "ID number", "Email address")
_QUOTED = 80  # characters, of a file that is another than was expected
POINTS_POSSIBLE = "    Points Possible"  # as Canvas writes it

# What a spreadsheet takes for a formula, at the start of a cell or of what another separator makes one.
_FORMULA = re.compile(r"(^|[,;|])(\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")


class InvalidIdentities(CnlabError):  # noqa: N818 - reads as the claim it makes
    """The file that says who is who cannot be used; the message names the line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a learning management system calls a student of the gradebook; empty where it is not known."""

    name: str = ""
    canvas_id: str = ""
    sis_user_id: str = ""
    sis_login_id: str = ""
    section: str = ""
    username: str = ""
    idnumber: str = ""
    email: str = ""


@dataclass(frozen=True, slots=True)
class Exported:
    """The files written, and what to know before they are uploaded."""

    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def write_exports(
    course: Course,
    assignments: str | Sequence[str],
    directory: Path,
    *,
    identities: Path | None = None,
    missing_as_zero: bool = False,
) -> Exported:
    """Write the grades of one or more assignments as Canvas and as Moodle import them.

    Args:
        course: whose gradebook to read.
        assignments: their names; each becomes a column.
        directory: where to write; made if need be.
        identities: a CSV file with a column `student` and any of the fields of `Identity`, or the file that
            Canvas itself exports from its gradebook.
        missing_as_zero: give who handed in nothing no points, instead of no grade.

    Raises:
        InvalidIdentities: that file is not one.
        NoSuchAssignment: the gradebook does not know one of them.
    """
    names = [assignments] if isinstance(assignments, str) else list(assignments)
    records = [read_class(course, name) for name in names]
    known, headings = read_identities(identities) if identities else ({}, {})
    students = records[0].students if records else ()
    who = {student.id: identity_of(student, known) for student in students}
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    tables = {
        "canvas.csv": canvas_rows(records, who, headings, missing_as_zero=missing_as_zero),
        "moodle.csv": moodle_rows(records, who, missing_as_zero=missing_as_zero),
    }
    for name, rows in tables.items():
        (directory / name).write_text(csv_text(rows), encoding="utf-8", newline="")
    paths = tuple(directory / name for name in tables)
    return Exported(paths, tuple(notes(records, who, known, missing_as_zero=missing_as_zero)))


def canvas_rows(
    records: Sequence[ClassRecord],
    who: Mapping[str, Identity],
    headings: Mapping[str, str] | None = None,
    *,
    missing_as_zero: bool = False,
) -> list[list[str]]:
    """Return the table that Canvas imports.

    Args:
        records: one an assignment.
        who: each student's identity.
        headings: for an assignment that is in Canvas, its heading there, such as ``"lab01 (4711)"``.
        missing_as_zero: see `write_exports`.
    """
    columns = [(headings or {}).get(record.assignment, record.assignment) for record in records]
    rows = [[*CANVAS, *map(safe, columns)]]
    rows.append([POINTS_POSSIBLE, "", "", "", "", *(number(record.max_score) for record in records)])
    for student, submissions in _by_student(records):
        own = who[student.id]
        is_mistakable = "Points Possible" in own.name  # Canvas would take it for that row
        name = student.id if is_mistakable else own.name
        labels = [name, own.canvas_id, own.sis_user_id, own.sis_login_id, own.section]
        grades = [_grade(each, "", missing_as_zero) for each in submissions]
        rows.append([*map(safe, labels), *grades])
    return rows


def moodle_rows(
    records: Sequence[ClassRecord], who: Mapping[str, Identity], *, missing_as_zero: bool = False
) -> list[list[str]]:
    """Return the table that Moodle imports: its page asks for the user's column, then for each grade's."""
    rows = [[*MOODLE, *(safe(f"Assignment: {record.assignment}") for record in records)]]
    for student, submissions in _by_student(records):
        own = who[student.id]
        labels = [own.username, student.first_name, student.last_name, own.idnumber, own.email]
        grades = [_grade(each, "-", missing_as_zero) for each in submissions]
        rows.append([*map(safe, labels), *grades])
    return rows


def identity_of(student: Student, known: Mapping[str, Identity]) -> Identity:
    """Return who `student` is in the learning management system: as told, else as the gradebook has it."""
    name = ", ".join(part for part in (student.last_name, student.first_name) if part)
    found = Identity(
        name=name or student.id,
        canvas_id=student.lms_user_id,
        sis_login_id=student.id,
        username=student.id,
        email=student.email,
    )
    told = known.get(student.id, Identity())
    return Identity(
        **{each.name: getattr(told, each.name) or getattr(found, each.name) for each in fields(Identity)}
    )


def read_identities(path: Path) -> tuple[dict[str, Identity], dict[str, str]]:
    """Return the identities in a CSV file by student, and for each assignment in it Canvas's heading."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise InvalidIdentities(f"read_identities({path}): no CSV file: {error}") from None
    heading = [cell.strip() for cell in lines[0]] if lines else []
    if heading[:2] == ["Student", "ID"]:
        return _from_canvas(heading, lines[1:]), _canvas_headings(heading)
    if "student" not in heading:
        raise InvalidIdentities(
            f"read_identities({path}): expected a column `student` or an export of Canvas's gradebook,"
            f" got {_quoted(', '.join(heading)) if heading else 'an empty file'}"
        )
    wanted = {each.name for each in fields(Identity)}
    found: dict[str, Identity] = {}
    for place, line in enumerate(lines[1:], start=2):
        cells = {name: cell.strip() for name, cell in zip(heading, line, strict=False)}
        student = cells.get("student", "")
        if student in found:
            raise InvalidIdentities(f"read_identities({path}): line {place} has {student!r} a second time")
        if student:
            found[student] = Identity(**{name: cell for name, cell in cells.items() if name in wanted})
    return found, {}


def _quoted(text: str) -> str:
    """Quote what may be no text at all, and not much of it."""
    return ascii(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")


def _from_canvas(heading: Sequence[str], lines: Iterable[Sequence[str]]) -> dict[str, Identity]:
    """Read Canvas's own export; the student's name in the gradebook is the login there, or the SIS user."""
    found: dict[str, Identity] = {}
    for line in lines:
        cells = dict(zip(heading, (cell.strip() for cell in line), strict=False))
        own = Identity(
            name=cells.get("Student", ""),
            canvas_id=cells.get("ID", ""),
            sis_user_id=cells.get("SIS User ID", ""),
            sis_login_id=cells.get("SIS Login ID", ""),
            section=cells.get("Section", ""),
        )
        for student in (own.sis_user_id, own.sis_login_id):
            if student and own.canvas_id:
                found[student] = own
    return found


def _canvas_headings(heading: Sequence[str]) -> dict[str, str]:
    matches = (re.fullmatch(r"(.+?) \(\d+\)", cell) for cell in heading[len(CANVAS) :])
    return {match[1]: match[0] for match in matches if match}


def notes(
    records: Sequence[ClassRecord],
    who: Mapping[str, Identity],
    known: Mapping[str, Identity],
    *,
    missing_as_zero: bool,
) -> Iterable[str]:
    """Say what a person should know before the files are uploaded."""
    for record in records:
        waiting = [student.id for student, submission in record.submitted if submission.needs_person]
        if waiting:
            yield f"{record.assignment}: not final, an answer waits for a person: {_listed(waiting)}"
        failed = [student.id for student, submission in record.submitted if submission.run.error]
        if failed:
            yield f"{record.assignment}: no grade, as it could not be run; grade again: {_listed(failed)}"
        missing = [student.id for student in record.students if student.submission is None]
        if missing:
            grade = "0" if missing_as_zero else "no grade"
            yield f"{record.assignment}: {grade} for who handed in nothing: {_listed(missing)}"
        if record.max_score > 100:
            yield f"{record.assignment}: Moodle takes no grade above 100 unless its administrator allows it"
    if known and (strangers := [student for student in who if student not in known]):
        yield f"not among the identities, so known by the name in the gradebook: {_listed(strangers)}"
    altered = [
        student
        for student, own in who.items()
        if any(safe(text) != text for text in (own.sis_login_id, own.sis_user_id, own.username, own.email))
    ]
    if altered:
        yield (
            "these begin like a formula, so each has a ' before it that the import will not know:"
            f" {_listed(altered)}"
        )


def safe(text: str) -> str:
    """Return `text` so that no spreadsheet runs it: one line, and a ``'`` before what begins a formula.

    See: https://owasp.org/www-community/attacks/CSV_Injection
    """
    line = " ".join(plain(text).split())
    return _FORMULA.sub(r"\1\2'", line)


def number(value: float) -> str:
    """Return `value` with a point and at most four decimals, and never with an exponent."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def csv_text(rows: Iterable[Iterable[str]]) -> str:
    """Spell a table as RFC 4180 says."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def _by_student(records: Sequence[ClassRecord]) -> Iterable[tuple[Student, list[Submission | None]]]:
    """Give each student and what they handed in for each of the records."""
    handed_in = [{student.id: student.submission for student in record.students} for record in records]
    for student in records[0].students if records else ():
        yield student, [submissions.get(student.id) for submissions in handed_in]


def _grade(submission: Submission | None, none: str, missing_as_zero: bool) -> str:
    if submission is None:
        return "0" if missing_as_zero else none
    return none if submission.score is None else number(submission.score)


def _listed(names: Sequence[str], *, at_most: int = 10) -> str:
    rest = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(map(safe, names[:at_most])) + rest
