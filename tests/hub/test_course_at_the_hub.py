"""A teacher and two students in Chromium, from release to feedback.

Everything is clicked where a user clicks; `cnlab grade` is typed into a terminal of JupyterLab. Between the
acts the machine is asked what has come of it.
"""

from __future__ import annotations

import pwd
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hub.running_hub import ASSIGNMENT, Hub, groups_of, played
from leftovers import control_groups

from cnlab.clock import wait_until
from cnlab.grading.steps.arrivals import TIMESTAMP, arrivals

pytestmark = [pytest.mark.browser, pytest.mark.needs_root, pytest.mark.slow, pytest.mark.timeout(1200)]

PLAY = Path(__file__).with_name("play_course.mjs")
DUE = "2099-11-29T23:59"
RIGHT = "def double(number):\n    return number + number"
WRONG = "def double(number):\n    return 5"


def scores(hub: Hub) -> dict[str, float]:
    """What the gradebook has for each student; empty until all are graded."""
    query = """
        SELECT submitted_assignment.student_id, grade.auto_score FROM grade
        JOIN submitted_notebook ON submitted_notebook.id = grade.notebook_id
        JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id
    """
    database = sqlite3.connect(f"file:{hub.place.course}/gradebook.db?mode=ro", uri=True)
    try:
        found = dict(database.execute(query))
    finally:
        database.close()
    return found if len(found) == 2 and None not in found.values() else {}


def limits(hub: Hub, user: str) -> dict[str, str]:
    """The limits of the group of a user's server, by file; version 1 or 2 of control groups."""
    [name] = groups_of([user])
    files = ("memory.limit_in_bytes", "memory.max", "pids.max")
    found = (Path(group, file) for group in control_groups(name) for file in files)
    return {path.name: path.read_text().strip() for path in found if path.exists()}


@pytest.fixture(scope="module")
def seen(hub: Hub):
    """By act: what the pages said, and what the machine did before the next."""
    ada, grace = hub.students
    told = {
        "assignment": ASSIGNMENT,
        "teacher": hub.teacher,
        "students": hub.students,
        "passwords": hub.passwords,
        "answers": {ada: RIGHT, grace: WRONG},
        "due": DUE,
        "grading": f"cnlab grade autograde {ASSIGNMENT}",
    }
    seen = {"begun": datetime.now(UTC)}
    with played(PLAY, hub.address, told) as play:
        for act in ("released", "fetched", "validated"):
            seen[act] = play.next(act)
            play.go_on()
        seen["submitted"] = play.next("submitted")
        wait_until(lambda: all(one.is_received for one in arrivals(hub.place.inbound)), timeout_s=60)
        seen["arrivals"] = arrivals(hub.place.inbound)
        seen["ended"] = datetime.now(UTC)
        seen["limits"] = {user: limits(hub, user) for user in (hub.teacher, *hub.students)}
        seen["tampering"] = [hub.run_as(one.student, tamper_with(one.path)) for one in seen["arrivals"]]
        play.go_on()
        seen["collected"] = play.next("collected")
        play.go_on()
        play.next("autograding")
        wait_until(lambda: scores(hub), timeout_s=180, what="grades in the gradebook")
        seen["scores"] = scores(hub)
        play.go_on()
        for act in ("handed-back", "read"):
            seen[act] = play.next(act)
            play.go_on()
    return seen


def tamper_with(submission: Path) -> str:
    """Python code that edits a submission and its time stamp, by a student who knows its full name."""
    return f"""
import os, pathlib
path = pathlib.Path({str(submission)!r})
for attempt in (
    lambda: (path / "timestamp.txt").write_text("2020-01-01 00:00:00.000000 UTC"),
    lambda: (path / "{ASSIGNMENT}.ipynb").write_text("forged"),
    lambda: path.rename(path.with_name(path.name.replace("2026", "2020"))),
    lambda: os.listdir(path.parent),
):
    try:
        print("done", attempt())
    except PermissionError:
        pass
"""


def test_course_list_leads_to_the_formgrader(seen):
    """Of the own course, which the instructor's server has."""
    assert ["cnlab", "local"] == seen["released"]["courses"].split()


def test_students_see_when_work_is_due(seen, hub):
    """Due dates are the instructor's, in the gradebook; nbgrader shows them to nobody else."""
    due = seen["fetched"]["due"]

    assert hub.students == list(due)
    assert all("Nov 29" in said and "11:59 PM" in said for said in due.values()), due


def test_validate_tells_right_from_wrong(seen, hub):
    """The student's own server runs the visible checks."""
    right, wrong = (seen["validated"]["said"][name] for name in hub.students)

    assert "Success" in right
    assert "expected double(2) to be 4" in wrong


def test_time_of_a_submission_is_the_servers(seen, hub):
    """Each has arrived once, is the instructor's copy, and came while students were at it."""
    owners = {one.path.owner() for one in seen["arrivals"]}

    assert sorted(hub.students) == sorted(one.student for one in seen["arrivals"])
    assert {hub.teacher} == owners
    assert all(seen["begun"] < one.at < seen["ended"] for one in seen["arrivals"])


def test_student_cannot_change_what_was_submitted(seen, hub):
    """Neither the time nor the notebook, even by its full name; nor see whose work is there."""
    collected = {
        name: (hub.place.course / "submitted" / name / ASSIGNMENT / "timestamp.txt").read_text()
        for name in hub.students
    }

    assert ["", ""] == [attempts.stdout for attempts in seen["tampering"]]
    assert {one.student: one.at.strftime(TIMESTAMP) for one in seen["arrivals"]} == collected


def test_students_servers_have_limits(seen, hub):
    """2 GiB of memory and 512 processes for who learns, none for who grades."""
    teacher, *students = (seen["limits"][user] for user in (hub.teacher, *hub.students))

    assert all(str(2 << 30) in found.values() and "512" in found.values() for found in students)
    assert str(2 << 30) not in teacher.values()


def test_gradebook_has_what_the_checks_found(seen, hub):
    """The command of the course fills nbgrader's own database."""
    ada, grace = hub.students

    assert {ada: 3.0, grace: 0.0} == seen["scores"]


def test_feedback_reaches_its_student_alone(seen, hub):
    """Each reads the own score; neither page shows the hidden test."""
    ada, grace = (seen["read"]["feedback"][name] for name in hub.students)

    assert ("3.0 / 3.0" in ada, "0.0 / 3.0" in grace) == (True, True)
    assert "double(21)" not in ada + grace


def test_homes_and_course_are_closed_to_students(hub):
    """The gradebook, the solutions and the other student's home."""
    ada, grace = hub.students
    closed = [hub.place.course / "gradebook.db", hub.place.source, Path(pwd.getpwnam(grace).pw_dir)]
    code = "import os, sys; print([path for path in sys.argv[1:] if os.access(path, os.R_OK)])"

    assert (
        "[]\n" == hub.run_as(ada, code.replace("sys.argv[1:]", repr([str(path) for path in closed]))).stdout
    )
