"""Pages tell nothing that is not for their reader, and the instructor hears what was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from grading.problem_set import NAME, SECRET, answered, cell_of, make_course, source, submit
from grading.sandboxed import accepted

from cnlab.errors import CnlabError
from cnlab.grading.attempt.execution import run_job
from cnlab.grading.report.records import run_of
from cnlab.grading.steps import journal
from cnlab.grading.steps.assignment import Assignment
from cnlab.grading.steps.autograde import Autograding
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.feedback import write_feedback
from cnlab.grading.steps.recording import Outcome

SETTINGS = """
c.ClearHiddenTests.begin_test_delimeter = "HIDE FROM"
c.ClearHiddenTests.end_test_delimeter = "HIDE TO"
c.Sandbox.limits = {"cell_s": 2}
"""
TELLING = "def square(x):\n    print('called with', x)\n    return x * x if x < 100 else 0"
STUCK = "def cube(x):\n    return x**3\n\nwhile True:\n    pass"


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Course, dict[str, Outcome]]:
    """A course that marks hidden tests in its own way, and what came of two submissions."""
    notebook = source()
    check = cell_of(notebook, "check-square")
    check.source = check.source.replace("BEGIN HIDDEN TESTS", "HIDE FROM")
    check.source = check.source.replace("END HIDDEN TESTS", "HIDE TO")
    course = make_course(tmp_path_factory.mktemp("marks") / "course", notebook, SETTINGS)
    for student, task, answer in (("telling", "square", TELLING), ("stuck", "cube", STUCK)):
        work = answered(course)
        cell_of(work, task).source = answer
        cell_of(work, "essay").source = "Because $x^2$ is so."
        submit(course, student, work)
    run = Autograding(course, Assignment.load(course, NAME), accept=accepted())
    outcomes = {outcome.student: outcome for outcome in run.run(lambda jobs: (run_job(job) for job in jobs))}
    assert [page.error for page in write_feedback(course, NAME)] == ["", ""]
    return course, outcomes


def page_of(course: Course, student: str) -> str:
    return (course.feedback(student, NAME) / f"{NAME}.html").read_text()


def test_hidden_tests_between_other_marks_stay_hidden(graded: tuple[Course, dict[str, Outcome]]) -> None:
    """What nbgrader takes out of the release does not come back by what it printed or said."""
    page = page_of(graded[0], "telling")

    assert str(SECRET) not in page
    assert str(SECRET**2) not in page
    assert "called with 2" in page
    assert "a hidden check failed" in page


@pytest.mark.parametrize("student", ["telling", "stuck"])
def test_page_with_a_formula_asks_nobody_for_anything(
    graded: tuple[Course, dict[str, Outcome]], student: str
) -> None:
    """No content delivery network hears who reads about their marks, and when."""
    page = page_of(graded[0], student)

    assert "$x^2$" in page
    assert 'src="http' not in page
    assert "cdnjs" not in page


def test_cell_of_a_student_that_was_stopped_is_named(graded: tuple[Course, dict[str, Outcome]]) -> None:
    """In what the command says, in the journal, and so in the report."""
    course, outcomes = graded
    remembered = journal.read(course, NAME, "stuck")
    assert remembered is not None

    for notes in (outcomes["stuck"].notes, remembered.notes, run_of(remembered).notes):
        assert [note for note in notes if "the cell `cube` was stopped" in note and "2 s" in note]
    assert not outcomes["telling"].notes


def test_feedback_for_what_nobody_has_graded_is_refused(graded: tuple[Course, dict[str, Outcome]]) -> None:
    """A name with a typing error must not look like work done."""
    with pytest.raises(CnlabError, match="nothing of `nosuch` was graded"):
        list(write_feedback(graded[0], "nosuch"))


def test_what_is_kept_of_students_is_the_instructors_alone(
    graded: tuple[Course, dict[str, Outcome]],
) -> None:
    """Journals quote hidden checks; others may have accounts on the machine."""
    private: Path = graded[0].private

    assert private.stat().st_mode & 0o077 == 0
