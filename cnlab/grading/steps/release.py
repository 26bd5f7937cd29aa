"""Make the students' version of an assignment, by nbgrader's own means, and put it into the exchange."""

import contextlib
import copy
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nbgrader.converters import GenerateAssignment
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from nbgrader.exchange import ExchangeError
from nbgrader.exchange.default import ExchangeReleaseAssignment

from cnlab.errors import CnlabError
from cnlab.grading.steps import arrivals
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.directories import locked, put

_NAMES_ERROR = re.compile(r"[A-Za-z_][\w.]*: ")


def release(course: Course, assignment: str, *, to_exchange: bool | None = None) -> Iterator[str]:
    """Make the students' version, without solutions and hidden tests; yield what was done.

    Args:
        course: whose.
        assignment: which.
        to_exchange: put it where students fetch it; None: if there is an exchange.

    Raises:
        CnlabError: nbgrader refuses; the message says why.
    """
    _require_source(course, assignment)
    with locked(course.private, f"the course in {course.root}"):
        _generate(course, assignment)
        course.coursedir.assignment_id = assignment
        yield f"made {course.release(assignment)}"
        exchange = ExchangeReleaseAssignment(coursedir=course.coursedir, config=course.config)
        has_exchange = os.access(exchange.root, os.W_OK)
        if to_exchange or (to_exchange is None and has_exchange):
            exchange.force = True
            try:
                exchange.start()
            except ExchangeError as error:
                raise CnlabError(f"it cannot be put into the exchange: {error}") from None
            shelf = Path(exchange.root, course.course_id)
            arrivals.set_sticky(shelf / "inbound")
            yield f"put it into {shelf / 'outbound'}"


@contextlib.contextmanager
def released_on_trial(course: Course, assignment: str) -> Iterator[Course]:
    """Give a course, gone with the block, in which the assignment was released as it is written now.

    Raises:
        CnlabError: nbgrader refuses; the message says why.
    """
    _require_source(course, assignment)
    with tempfile.TemporaryDirectory(prefix="cnlab-trial-") as directory:
        config = copy.deepcopy(course.config)
        config.CourseDirectory.root = directory
        config.CourseDirectory.source_directory = str(course.root / course.coursedir.source_directory)
        config.CourseDirectory.db_url = f"sqlite:///{directory}/gradebook.db"
        trial = Course(config, CourseDirectory(config=config))
        _generate(trial, assignment)
        yield trial


def _require_source(course: Course, assignment: str) -> None:
    if not course.source(assignment).is_dir():
        raise CnlabError(f"there is no assignment in {course.source(assignment)}")


def _generate(course: Course, assignment: str) -> None:
    """Make it beside its place, so that what was released before stays where this cannot be made."""
    staging = course.private / "staging" / "release"
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    converter = GenerateAssignment(coursedir=_beside(course, staging, assignment), config=course.config)
    converter.force = True
    reason = _Reason()
    try:
        with _heard_by(reason, converter.log), course.readable_gradebook():
            converter.start()
        put(staging / assignment, course.release(assignment))
    except NbGraderException as error:
        raise CnlabError(f"nbgrader cannot make `{assignment}`: {reason.text or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _beside(course: Course, staging: Path, assignment: str) -> CourseDirectory:
    """The same directories, but for that of releases."""
    ours = course.coursedir
    coursedir = CourseDirectory(config=course.config)
    coursedir.root, coursedir.db_url = ours.root, ours.db_url
    coursedir.release_directory = str(staging.absolute())
    coursedir.assignment_id = assignment
    return coursedir


class _Reason(logging.Handler):
    """The line that names the error in the traceback that nbgrader logs where it could raise."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().strip()
        if record.levelno >= logging.ERROR and message.startswith("Traceback"):
            lines = message.splitlines()
            self.text = next((line for line in reversed(lines) if _NAMES_ERROR.match(line)), lines[-1])


@contextlib.contextmanager
def _heard_by(handler: logging.Handler, log: logging.Logger) -> Iterator[None]:
    """Let nobody else hear a log for a while."""
    kept, propagates = log.handlers, log.propagate
    log.handlers, log.propagate = [handler], False
    try:
        yield
    finally:
        log.handlers, log.propagate = kept, propagates
