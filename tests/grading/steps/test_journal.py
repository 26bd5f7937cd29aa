"""A submission that has a journal is finished; one that cannot be read is graded again."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnlab.grading.steps import journal
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.journal import Journal

JOURNAL = Journal(
    student="ada",
    assignment="ps1",
    submission_sha256="1",
    source_sha256="2",
    finished="2026-11-23T10:00:00+00:00",
    usage={"cpu_s": 1.5},
    cells=({"grade_id": "a", "points": 1.0, "score": None, "status": "ok", "reason": "", "wall_s": 0.1},),
    events=({"kind": "pids", "text": "fork bomb \ud800", "cell": None},),
    repairs=("x",),
)


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """An empty course."""
    (tmp_path / "nbgrader_config.py").write_text(
        f"c = get_config()\nc.CourseDirectory.root = {str(tmp_path)!r}\n"
    )
    return Course.load(tmp_path)


def test_journal_comes_back_as_it_was_written(course: Course) -> None:
    """Also with text that a student made, which UTF-8 cannot spell."""
    journal.write(course, JOURNAL)

    assert journal.read(course, "ps1", "ada") == JOURNAL
    assert journal.read_all(course, "ps1") == [JOURNAL]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"student": 7}'])
def test_journal_that_cannot_be_read_is_none(course: Course, text: str) -> None:
    """The submission is graded again; nobody has to look for the file."""
    journal.write(course, JOURNAL)
    (course.runs("ps1") / "ada.json").write_text(text)

    assert journal.read(course, "ps1", "ada") is None


def test_journal_of_a_newer_program_is_read(course: Course) -> None:
    """It may have fields that this one does not know."""
    journal.write(course, JOURNAL)
    path = course.runs("ps1") / "ada.json"
    path.write_text(path.read_text().replace('"student"', '"color": "red", "student"'))

    assert journal.read(course, "ps1", "ada") == JOURNAL


def test_journal_is_removed(course: Course) -> None:
    """From then on the submission is unfinished; removing it twice is no error."""
    journal.write(course, JOURNAL)
    journal.remove(course, "ps1", "ada")
    journal.remove(course, "ps1", "ada")

    assert journal.read_all(course, "ps1") == []
