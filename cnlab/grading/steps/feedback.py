"""Write each student's pages: nbgrader's, without hidden tests.

Interface: `write_feedback` renders what has changed since the last time; `send_feedback` puts the pages into
the exchange, where students fetch them.

The page is nbgrader's own, with the points and comments of the gradebook. It appears in one step. What it was
made of is remembered by its digest, so a run that is killed goes on, and comments made in the formgrader
come into the page.
"""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgrader.converters import GenerateFeedback
from nbgrader.preprocessors import GetGrades
from traitlets.config import Config

from cnlab.errors import CnlabError
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.directories import locked, put
from cnlab.grading.steps.display import SealHiddenTests
from cnlab.grading.steps.journal import make_private

_TO_FETCH_IT = ("timestamp.txt", "submission_secret.txt")  # by these a student's own page is found

_SCRIPT_FROM_AFAR = re.compile(r'<script src="https?://[^"]*">\s*</script>')
"""MathJax, in nbgrader's template: no stranger need be told that a page is read. Formulas stay as typed."""


@dataclass(frozen=True, slots=True)
class Pages:
    """A student's pages: whether they were written now, and why one of them could not be, if so."""

    student: str
    is_new: bool
    error: str = ""


def waiting_for_a_person(course: Course, assignment: str) -> list[str]:
    """Return whose pages say 0 points where nobody has read the answer yet."""
    with course.gradebook() as gradebook:
        rows = gradebook.submission_dicts(assignment)
    return sorted(row["student"] for row in rows if row["needs_manual_grade"])


def write_feedback(
    course: Course,
    assignment: str,
    *,
    students: Sequence[str] = (),
    show_messages: bool = False,
    force: bool = False,
) -> Iterator[Pages]:
    """Write pages, of one student after the other.

    Args:
        course: whose.
        assignment: which.
        students: for whom; by default all whose work was graded.
        show_messages: let hidden checks that failed say why. Their source is never shown.
        force: write pages that are up to date too.

    Raises:
        CnlabError: nothing of a student was graded, or another run is at work.
    """
    graded = course.students(assignment, "autograded")
    if missing := sorted(set(students) - set(graded)):
        raise CnlabError(f"nothing of `{assignment}` by `{missing[0]}` was graded: autograde it first")
    if not graded:
        raise CnlabError(f"nothing of `{assignment}` was graded: run `cnlab grade autograde {assignment}`")
    with locked(course.private, f"the course in {course.root}"):
        make_private(course)
        converter = _converter(course, assignment, show_messages)
        for student in students or graded:
            try:
                yield _written(course, converter, assignment, student, show_messages, force)
            except Exception as error:  # whatever stands in a notebook, the others have their pages
                yield Pages(student, is_new=False, error=f"{type(error).__name__}: {error}")


def _written(
    course: Course, converter: Any, assignment: str, student: str, show_messages: bool, force: bool
) -> Pages:
    place = course.feedback(student, assignment)
    digest = _digest(course, assignment, student, show_messages)
    remembered = course.private / "feedback" / assignment / f"{student}.sha256"
    if not force and _is_up_to_date(remembered, digest, place):
        return Pages(student, is_new=False)
    remembered.unlink(missing_ok=True)
    staged = _rendered(course, converter, assignment, student)
    put(staged, place)
    shutil.rmtree(staged, ignore_errors=True)
    remembered.parent.mkdir(parents=True, exist_ok=True)
    remembered.write_text(digest)
    return Pages(student, is_new=True)


def _converter(course: Course, assignment: str, show_messages: bool) -> Any:
    """Set nbgrader's converter up as for `nbgrader generate_feedback`."""
    config = Config(course.config)
    config.HTMLExporter.sanitize_html = True
    config.SealHiddenTests.show_messages = show_messages
    config.GenerateFeedback.preprocessors = _preprocessors(config)
    converter = GenerateFeedback(coursedir=course.coursedir, config=config)
    converter.coursedir.assignment_id = assignment
    converter.exporter = converter.exporter_class(parent=converter, config=converter.config)
    for preprocessor in converter.preprocessors:
        converter.exporter.register_preprocessor(preprocessor)
    return converter


def _preprocessors(config: Config) -> list[Any]:
    """Return those that are configured, with the sealing first."""
    from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor

    configured = config.GenerateFeedback.get("preprocessors", [GetGrades, CSSHTMLHeaderPreprocessor])
    return [SealHiddenTests, *(each for each in configured if not _is_sealing(each))]


def _is_sealing(preprocessor: Any) -> bool:
    return preprocessor is SealHiddenTests or str(preprocessor).endswith(".SealHiddenTests")


def _rendered(course: Course, converter: Any, assignment: str, student: str) -> Path:
    """Write a student's pages beside their place."""
    autograded = course.autograded(student, assignment)
    staged = course.private / "staging" / "feedback" / assignment / student
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    with contextlib.chdir(course.root):
        for notebook in sorted(autograded.glob("*.ipynb")):
            resources = converter.init_single_notebook_resources(str(notebook))
            page, _ = converter.exporter.from_filename(str(notebook), resources=resources)
            (staged / f"{notebook.stem}.html").write_text(_SCRIPT_FROM_AFAR.sub("", page))
    for name in _TO_FETCH_IT:
        if (autograded / name).is_file():
            shutil.copyfile(autograded / name, staged / name)
    for path in staged.iterdir():
        path.chmod(0o664 if course.coursedir.groupshared else 0o644)
    return staged


def _digest(course: Course, assignment: str, student: str, show_messages: bool) -> str:
    """Digest all that a page is made of: the notebook, points and comments."""
    digest = hashlib.sha256(repr((show_messages, _grades(course, assignment, student))).encode())
    autograded = course.autograded(student, assignment)
    for path in sorted(autograded.glob("*.ipynb")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _grades(course: Course, assignment: str, student: str) -> list[object]:
    with course.gradebook() as gradebook:
        submission = gradebook.find_submission(assignment, student)
        return [
            (
                notebook.name,
                notebook.late_submission_penalty,
                sorted((grade.name, grade.score, grade.max_score) for grade in notebook.grades),
                sorted((comment.name, comment.comment or "") for comment in notebook.comments),
            )
            for notebook in submission.notebooks
        ]


def _is_up_to_date(remembered: Path, digest: str, pages: Path) -> bool:
    try:
        return pages.is_dir() and remembered.read_text() == digest
    except FileNotFoundError:
        return False


def send_feedback(course: Course, assignment: str) -> None:
    """Put the pages into the exchange, as `nbgrader release_feedback` does.

    Raises:
        CnlabError: there is no exchange.
    """
    from nbgrader.exchange import ExchangeError
    from nbgrader.exchange.default import ExchangeReleaseFeedback

    course.coursedir.assignment_id = assignment
    try:
        ExchangeReleaseFeedback(coursedir=course.coursedir, config=course.config).start()
    except ExchangeError as error:
        raise CnlabError(f"the feedback cannot be put into the exchange: {error}") from None
