"""Write what came of a submission into nbgrader's gradebook: all of it in one transaction.

Interface: ``with Books(course) as books: with books.transaction() as gradebook: record(...)``. Until the
transaction ends nobody sees anything of it, and if it ends badly there is nothing of it. What is written
where is what `nbgrader autograde` writes: points of graded cells, "No response." for untouched answers, the
penalty for being late. A person's points and comments are left alone.

See: nbgrader.preprocessors.SaveAutoGrades and AssignLatePenalties.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import nbformat
import sqlalchemy
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import AssignLatePenalties
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from cnlab.grading.steps.course import Course

_NUMPY_NUMBER = re.compile(r"^(?:np\.)?(?:float|int|uint)\d+\((.*)\)$")
_LOCK_TIMEOUT_S = 60  # formgrader holds the database for milliseconds


class _OneTransaction(Session):
    """A session in which nbgrader's many small commits wait for the one at the end."""

    def commit(self) -> None:
        self.flush()

    def commit_all(self) -> None:
        super().commit()


class Books:
    """The course's gradebook, open for writing."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def __enter__(self) -> Self:
        with self._course.readable_gradebook():
            self._gradebook = Gradebook(self._course.db_url, self._course.course_id)
        self._gradebook.engine.dispose()
        self._gradebook.engine = _engine(self._course.db_url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gradebook.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Gradebook]:
        """Hand out the gradebook; what was done to it is kept when the block ends well.

        Raises:
            CourseError: the gradebook is locked, or cannot be written.
        """
        factory = sessionmaker(
            class_=_OneTransaction, bind=self._gradebook.engine, autoflush=False, expire_on_commit=False
        )
        session = scoped_session(factory)
        self._gradebook.db = session
        with self._course.readable_gradebook():
            try:
                yield self._gradebook
                session().commit_all()
            finally:
                session.remove()  # rolls back what was not committed


def _engine(url: str) -> sqlalchemy.Engine:
    """Connect; in SQLite each transaction takes the write lock first, so that what it read stays true."""
    if not url.startswith("sqlite"):
        return sqlalchemy.create_engine(url)
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": _LOCK_TIMEOUT_S})

    @sqlalchemy.event.listens_for(engine, "connect")
    def _leave_transactions_to_us(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def _take_the_lock(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@dataclass(frozen=True, slots=True)
class Score:
    """What a graded cell is worth; `score` is None where only a person can say.

    With a `problem` a person has to look at the score.
    """

    grade_id: str
    points: float
    score: float | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Marks:
    """What the notebook of a submission earned: the scores, and which answers are still the stub."""

    scores: Mapping[str, Score]
    answered: Mapping[str, bool]


def marks_of(notebook: Mapping[str, Any]) -> Marks:
    """Score a notebook that has run, by nbgrader's rules.

    They give full points for a partial credit that is negative or not a number; here that is none, and a
    person has to look.
    """
    scores, answered = {}, {}
    for plain in notebook["cells"]:
        if "nbgrader" not in plain["metadata"]:
            continue
        cell = nbformat.from_dict(plain)
        claims = cell.metadata.nbgrader
        if utils.is_grade(cell):
            scores[claims.grade_id] = _score(cell, claims.grade_id)
        if utils.is_solution(cell) or utils.is_task(cell):
            is_untouched = claims.get("checksum") == utils.compute_checksum(cell)
            answered[claims.grade_id] = utils.is_task(cell) or not is_untouched
    return Marks(scores, answered)


def _score(cell: Any, grade_id: str) -> Score:
    points = float(cell.metadata.nbgrader.points)
    if cell.cell_type != "code" or utils.is_solution(cell):
        return Score(grade_id, points, utils.determine_grade(cell)[0])
    if utils.has_failed(cell):
        return Score(grade_id, points, 0.0)
    partial = _last_number(cell)
    if partial is None:
        return Score(grade_id, points, points)
    if not 0 <= partial <= points:
        return Score(grade_id, points, 0.0, f"its last value is {partial:g}, not from 0 to {points:g}")
    return Score(grade_id, points, partial)


def _last_number(cell: Any) -> float | None:
    """Return the number that a check ends in, also one of numpy's, which nbgrader takes for a text."""
    shown = [output for output in cell.get("outputs", ()) if output.output_type == "execute_result"]
    text = str(shown[0].data.get("text/plain", "")) if shown else ""
    try:
        return float(_NUMPY_NUMBER.sub(r"\1", text))
    except ValueError:
        return None


def record(
    gradebook: Gradebook,
    course: Course,
    *,
    assignment: str,
    student: str,
    timestamp: datetime | None,
    marks: Mapping[str, Marks],
) -> float:
    """Write a submission's marks, by notebook, and return by how many seconds it was late."""
    gradebook.update_or_create_student(student)
    when = {"timestamp": timestamp} if timestamp is not None else {}
    submission = gradebook.update_or_create_submission(assignment, student, **when)
    late_s = float(submission.total_seconds_late)
    for notebook in submission.notebooks:
        _record_notebook(notebook, marks[notebook.name])
        gradebook.db.flush()
        gradebook.db.refresh(notebook, ["score"])
        notebook.late_submission_penalty = _penalty(course, student, notebook, late_s)
    return late_s


def _record_notebook(row: Any, marks: Marks) -> None:
    for grade in row.grades:
        score = marks.scores.get(grade.cell.name)
        if score is not None:  # it is None for a task, whose points are a person's alone
            grade.auto_score = score.score
            grade.needs_manual_grade = (
                score.score is None or bool(score.problem) or grade.manual_score is not None
            )
    for comment in row.comments:
        if comment.cell.name in marks.answered:
            is_answered = marks.answered[comment.cell.name]
            comment.auto_comment = None if is_answered else "No response."


def _penalty(course: Course, student: str, row: Any, late_s: float) -> float | None:
    if late_s <= 0:
        return None
    preprocessor = AssignLatePenalties(config=course.config)
    preprocessor.init_plugin()
    penalty = preprocessor.plugin_inst.late_submission_penalty(student, row.score, late_s)
    return None if penalty is None else float(preprocessor._check_late_penalty(row, penalty))
