"""What arrived last counts, at the time at which it arrived, whatever its files say."""

from __future__ import annotations

import json
import os
import pwd
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from grading.problem_set import NAME, answered, make_course

from cnlab.errors import CnlabError
from cnlab.grading.steps import arrivals
from cnlab.grading.steps.arrivals import RECEIPT, TIMESTAMP, Arrival
from cnlab.grading.steps.collect import chosen, collect
from cnlab.grading.steps.course import Course

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def arrival(student: str, at: datetime) -> Arrival:
    return Arrival(student, NAME, Path("inbound"), at, is_received=True)


def test_last_submission_of_each_student_counts() -> None:
    """In whatever order they are found."""
    ada = [arrival("ada", NOON + number * HOUR) for number in range(3)]
    ben = arrival("ben", NOON)

    assert chosen([ada[1], ben, ada[2], ada[0]]) == [ada[2], ben]


@pytest.mark.parametrize(("hours", "counts"), [((-2, -1, 1), -1), ((1, 2), 2), ((0,), 0), ((-1, 0, 1), 0)])
def test_submission_before_the_due_date_is_preferred_when_asked_for(
    hours: tuple[int, ...], counts: int
) -> None:
    """Who handed in late only has handed in all the same."""
    arrived = [arrival("ada", NOON + number * HOUR) for number in hours]

    assert chosen(arrived, NOON) == [arrival("ada", NOON + counts * HOUR)]


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """A course with an exchange of its own."""
    exchange = tmp_path / "exchange"
    (exchange / "demo" / "inbound").mkdir(parents=True)
    return make_course(tmp_path / "course", config=f"c.Exchange.root = {str(exchange)!r}\n")


def hand_in(course: Course, student: str, at: datetime, text: str = "") -> Path:
    """Leave a submission in the exchange, as it lies there when our desk has received it."""
    inbound = Path(str(course.config.Exchange.root), "demo", "inbound")
    directory = inbound / f"{student}+{NAME}+{at.strftime(TIMESTAMP)}+{len(text)}"
    directory.mkdir(mode=0o700)
    said = {"student": student, "assignment": NAME, "at": at.strftime(TIMESTAMP)}
    (directory / RECEIPT).write_text(json.dumps(said))
    (directory / f"{NAME}.ipynb").write_text(text or str(answered(course)))
    (directory / "timestamp.txt").write_text("2001-01-01 00:00:00 UTC")
    (directory / "submission_secret.txt").write_text("secret")
    return directory


def test_collecting_again_takes_only_what_is_newer(course: Course) -> None:
    """Nothing is lost, nothing is doubled."""
    hand_in(course, "ada", NOON, "1")
    hand_in(course, "ben", NOON, "1")
    first = collect(course, NAME)
    hand_in(course, "ada", NOON + HOUR, "22")
    second = collect(course, NAME)
    third = collect(course, NAME)
    work = [(course.submitted(student, NAME) / f"{NAME}.ipynb").read_text() for student in ("ada", "ben")]

    assert (first.new, first.updated) == (("ada", "ben"), ())
    assert (second.updated, second.unchanged) == (("ada",), ("ben",))
    assert third.unchanged == ("ada", "ben")
    assert work == ["22", "1"]


def test_timestamp_is_the_arrivals_and_the_secret_stays(course: Course) -> None:
    """By the one a submission is late, by the other its student finds the feedback."""
    hand_in(course, "ada", NOON)
    collect(course, NAME)
    place = course.submitted("ada", NAME)

    assert (place / "timestamp.txt").read_text() == "2026-01-01 12:00:00.000000 UTC"
    assert (place / "submission_secret.txt").read_text() == "secret"
    assert not (place / RECEIPT).exists()


def test_only_named_students_are_collected(course: Course) -> None:
    """For a late one who was let in."""
    hand_in(course, "ada", NOON)
    hand_in(course, "ben", NOON)
    collect(course, NAME, students=["ben"])

    assert course.students(NAME) == ["ben"]


@pytest.mark.needs_root
def test_directory_that_names_another_student_is_refused(course: Course) -> None:
    """Somebody could hand in nothing in the name of a rival."""
    directory = hand_in(course, "ada", NOON)
    os.chown(directory, pwd.getpwnam("daemon").pw_uid, -1)
    done = collect(course, NAME)

    assert course.students(NAME) == []
    assert "'ada' and belongs to 'daemon'" in done.refused[0]


@pytest.mark.needs_root
def test_students_word_about_the_time_changes_nothing(course: Course) -> None:
    """Neither the directory's name nor `timestamp.txt`, nor the times that a file can be given."""
    before = datetime.now(UTC) - HOUR
    directory = hand_in(course, "daemon", NOON)
    for path in [directory, *directory.iterdir()]:
        os.chown(path, pwd.getpwnam("daemon").pw_uid, -1)
        os.utime(path, (0, 0))
    directory.chmod(0o777)  # the last act of `nbgrader submit`
    collect(course, NAME)
    text = (course.submitted("daemon", NAME) / "timestamp.txt").read_text()

    assert datetime.strptime(text, TIMESTAMP).replace(tzinfo=UTC) > before


def handed_in_by_daemon(course: Course, text: str) -> Path:
    """Leave a submission in the exchange as `nbgrader submit` leaves it there."""
    directory = hand_in(course, "daemon", NOON, text)
    for path in [directory, *directory.iterdir()]:
        os.chown(path, pwd.getpwnam("daemon").pw_uid, -1)
    directory.chmod(0o777)
    return directory


@pytest.mark.needs_root
def test_only_what_was_received_is_collected(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission that is changed all the time cannot be received; the others are collected."""
    handed_in_by_daemon(course, "1")
    hand_in(course, "eva", NOON)
    monkeypatch.setattr(arrivals, "_copy", lambda arrival, staged: (arrival.path / "more").touch())
    done = collect(course, NAME)

    assert course.students(NAME) == ["eva"]
    assert "is being handed in just now" in done.refused[0]


@pytest.mark.needs_root
def test_submission_under_way_is_left_to_the_next_time(course: Course) -> None:
    """`nbgrader submit` copies file by file, and ends with a chmod."""
    handed_in_by_daemon(course, "1").chmod(0o755)
    done = collect(course, NAME)

    assert course.students(NAME) == []
    assert "collect again" in done.refused[0]


def test_collecting_sets_the_sticky_bit(course: Course) -> None:
    """nbgrader makes the directory without it, and students could rename what lies there."""
    collect(course, NAME)

    assert Path(str(course.config.Exchange.root), "demo", "inbound").stat().st_mode & stat.S_ISVTX


def test_course_without_an_exchange_says_what_to_do(tmp_path: Path) -> None:
    """Many grade what comes from elsewhere."""
    course = make_course(tmp_path / "course", config=f"c.Exchange.root = {str(tmp_path / 'none')!r}\n")

    with pytest.raises(CnlabError, match=r"set Exchange.root in nbgrader_config.py"):
        collect(course, NAME)
