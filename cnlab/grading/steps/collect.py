"""Collect what students have handed in through nbgrader's exchange.

Interface: `collect` takes in what has arrived, chooses one submission a student, and puts it where
`nbgrader collect` would.

Whose a submission is and when it came is the kernel's word; see `cnlab.grading.steps.arrivals`. That time is
written into ``timestamp.txt``: what a student writes there changes nothing. `cnlab hub`'s desk takes
submissions in within seconds; where none runs, this does, and an edit made before it makes a submission
younger, never older. Only the instructor's own copies are collected, never what a student can still change.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nbgrader.exchange.default.exchange import Exchange

from cnlab.errors import CnlabError
from cnlab.grading.steps import arrivals
from cnlab.grading.steps.arrivals import Arrival
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.directories import locked, put


@dataclass(frozen=True, slots=True)
class Collected:
    """What collecting did: whose work is new, updated, unchanged; and what was refused, and why."""

    new: tuple[str, ...]
    updated: tuple[str, ...]
    unchanged: tuple[str, ...]
    refused: tuple[str, ...]


def collect(
    course: Course, assignment: str, *, students: Sequence[str] = (), before_due: bool = False
) -> Collected:
    """Collect the last submission of each student.

    Args:
        course: whose.
        assignment: which.
        students: of whom; by default of all.
        before_due: prefer the last one that came before the due date, also to a later one.

    Raises:
        CnlabError: there is no exchange, or another run is at work.
    """
    inbound = _inbound(course)
    due = _due(course, assignment) if before_due else None
    with locked(course.private, f"the course in {course.root}"), _lock(inbound):
        arrivals.set_sticky(inbound)
        shutil.rmtree(_staging(course), ignore_errors=True)  # of a run that was killed
        refused = _take_in(inbound, assignment)
        arrived = [
            arrival
            for arrival in arrivals.arrivals(inbound)
            if arrival.is_received
            and arrival.assignment == assignment
            and (not students or arrival.student in students)
        ]
        done: dict[str, list[str]] = {"new": [], "updated": [], "unchanged": []}
        for arrival in chosen(arrived, due):
            done[_put(course, arrival)].append(arrival.student)
    return Collected(tuple(done["new"]), tuple(done["updated"]), tuple(done["unchanged"]), tuple(refused))


def chosen(arrived: Iterable[Arrival], due: datetime | None = None) -> list[Arrival]:
    """Return the last submission of each student; with `due` the last before it, if there is one."""
    last: dict[str, Arrival] = {}
    for arrival in sorted(arrived, key=lambda arrival: arrival.at):
        so_far = last.get(arrival.student)
        if due is None or arrival.at <= due or so_far is None or so_far.at > due:
            last[arrival.student] = arrival
    return [last[student] for student in sorted(last)]


def _inbound(course: Course) -> Path:
    root = Exchange(coursedir=course.coursedir, config=course.config).root
    inbound = Path(root, course.course_id, "inbound")
    if not inbound.is_dir():
        raise CnlabError(
            f"there is no {inbound}: release an assignment first, or set Exchange.root in nbgrader_config.py"
        )
    if inbound.stat().st_uid != os.geteuid():
        raise CnlabError(f"{inbound} belongs to {inbound.owner()}: collect as that user")
    return inbound


def _lock(inbound: Path) -> contextlib.AbstractContextManager[object]:
    """Wait for the desk to be done with what it is at."""
    return arrivals.lock(inbound) or contextlib.nullcontext()


def _due(course: Course, assignment: str) -> datetime | None:
    with course.gradebook() as gradebook:
        due = gradebook.find_assignment(assignment).duedate
    return due.replace(tzinfo=UTC) if due else None


def _take_in(inbound: Path, assignment: str) -> list[str]:
    """Make what has arrived ours, so that nobody can change it; return what is refused, and why."""
    refused = []
    for name in sorted(os.listdir(inbound)):
        if name.startswith(".") or f"+{assignment}+" not in name:
            continue
        try:
            if not _is_taken_in(inbound, name):
                refused.append(f"{name!r}: is being handed in just now; collect again in a minute")
        except (arrivals.Refused, OSError) as error:
            refused.append(str(error))
    return refused


def _is_taken_in(inbound: Path, name: str) -> bool:
    if arrivals.read_arrival(inbound, name).is_received:
        return True
    is_complete = arrivals.is_complete(inbound / name, time.time())
    return is_complete and arrivals.receive(inbound, name) is not None


def _put(course: Course, arrival: Arrival) -> str:
    """Put a submission into its place, unless it is there."""
    place = course.submitted(arrival.student, arrival.assignment)
    text = arrival.at.strftime(arrivals.TIMESTAMP)
    if _time_of(place) == text:
        return "unchanged"
    staged = _staging(course) / arrival.student
    staged.parent.mkdir(parents=True, exist_ok=True)
    arrivals.copy_received(arrival, staged)
    (staged / "timestamp.txt").unlink(missing_ok=True)
    (staged / "timestamp.txt").write_text(text)
    is_update = place.exists()
    put(staged, place)
    shutil.rmtree(staged, ignore_errors=True)
    return "updated" if is_update else "new"


def _staging(course: Course) -> Path:
    return course.private / "staging" / "submitted"


def _time_of(place: Path) -> str:
    try:
        return (place / "timestamp.txt").read_text(errors="replace").strip()
    except OSError:
        return ""
