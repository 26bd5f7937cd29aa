"""Each lab grades as it should: by ``cnlab grade`` and by nbgrader alone, without privileges.

All submissions of a lab are graded in one go. The mistakes are shared out to three students; what each must
lose and be told tells them apart. nbgrader's own commands run on the solution, so that the same checks are
known to work inside the notebook as well.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import labs.mistakes
import pytest
from labs.course import Course, filled_in, mistaken, nbgrader_of, solutions, source_of, with_words
from labs.mistakes import Mistake, shared_out
from nbformat import NotebookNode
from student import ROOT, Student

FOLDERS = sorted(path.name for path in Path(ROOT, "labs").glob("lab*-*"))


def mistakes_of(lab: str) -> dict[str, Mistake]:
    """The mistakes to plant in a lab: for `lab01-namespaces` those of the module `labs.mistakes.lab01`."""
    name = lab.partition("-")[0]
    if name not in {module.name for module in pkgutil.iter_modules(labs.mistakes.__path__)}:
        return {}
    found: dict[str, Mistake] = import_module(f"labs.mistakes.{name}").MISTAKES
    return found


LABS = {lab: mistakes for lab in FOLDERS if (mistakes := mistakes_of(lab))}
STOCK = "by-nbgrader"  # the student whose solution nbgrader grades without us
AT_A_TIME = os.cpu_count() or 1  # a lab waits for more than half of its time
ERRING = "mistaken-1"  # the student who gets feedback
MAYBE_MISSING = "cgroup-memory,cgroup-pids,cgroup-cpu"  # where nobody has delegated a group to a student

pytestmark = [pytest.mark.needs_uml, pytest.mark.slow, pytest.mark.timeout(3000)]


@dataclass
class Graded:
    """All that came of a lab's course, and who made which mistakes in it."""

    course: Course
    release: NotebookNode
    students: dict[str, dict[str, Mistake]]  # by name, the mistakes by name
    points: dict[str, dict[str, float | None]]

    def student_with(self, mistake: str) -> str:
        """The student who made it."""
        return next(name for name, mistakes in self.students.items() if mistake in mistakes)


@pytest.fixture(scope="module")
def graded_labs(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Graded]]]:
    """The labs that the selected tests are about, graded or being graded."""
    tests = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    wanted = {test.callspec.params["lab"] for test in tests if "graded" in test.fixturenames}
    longest_first = sorted(wanted, key=lambda lab: len(LABS[lab]), reverse=True)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(AT_A_TIME) as pool:
        courses = {lab: Course(lab, stack.enter_context(Student())) for lab in longest_first}
        yield {lab: pool.submit(grade, course) for lab, course in courses.items()}
        pool.shutdown(cancel_futures=True)  # where a test stops the run


@pytest.fixture
def graded(graded_labs: dict[str, Future[Graded]], lab: str) -> Graded:
    """The lab that the test is about."""
    return graded_labs[lab].result()


def grade(course: Course) -> Graded:
    """Take a lab through all steps."""
    release = course.release()
    right = solutions(source_of(course.lab))
    groups = shared_out(LABS[course.lab])
    students = {f"mistaken-{number}": mistakes for number, mistakes in enumerate(groups, start=1)}
    course.submit("solved", filled_in(release, right))
    course.submit("untouched", release)
    for name, mistakes in students.items():
        course.submit(name, mistaken(release, right, mistakes))
    course.submit(STOCK, with_words(filled_in(release, right)))
    course.nbgrader("autograde", course.lab, f"--student={STOCK}")
    graded = ["solved", "untouched", *students]
    accept = [f"--accept={MAYBE_MISSING}"] if is_for_ordinary_kernel(release) else []
    students_to_grade = [f"--student={name}" for name in graded]
    course.grade("autograde", course.lab, "--jobs=1", *accept, *students_to_grade)
    course.grade("feedback", course.lab, f"--student={ERRING}")
    return Graded(course, release, students, course.points())


def is_for_ordinary_kernel(notebook: NotebookNode) -> bool:
    """Whether it is graded on this host and not in a private kernel, where groups are always to be had."""
    return bool(notebook.metadata.kernelspec.name == "python3")


def automatic(notebook: NotebookNode) -> dict[str, float]:
    """The points of each check that no person needs to look at."""
    return {
        str(metadata["grade_id"]): float(str(metadata["points"]))
        for metadata in map(nbgrader_of, notebook.cells)
        if metadata.get("grade") and not metadata.get("solution")
    }


@pytest.mark.parametrize("lab", FOLDERS)
def test_lab_has_six_mistakes_to_plant(lab: str) -> None:
    """A lab whose checks nobody has seen fail proves nothing."""
    assert len(mistakes_of(lab)) >= 6


@pytest.mark.parametrize("student", ["solved", STOCK])
@pytest.mark.parametrize("lab", LABS)
def test_solution_scores_full_marks(graded: Graded, lab: str, student: str) -> None:
    """Otherwise nobody can; and it must not matter who grades."""
    points = graded.points[student]

    assert {check: points[check] for check in automatic(graded.release)} == automatic(graded.release)
    assert graded.course.failures(student) == {}


@pytest.mark.parametrize("lab", LABS)
def test_untouched_release_scores_nothing(graded: Graded, lab: str) -> None:
    """No check is passed by doing nothing, and an unanswered question needs no person to say so."""
    assert set(graded.points["untouched"].values()) == {0.0}


@pytest.mark.parametrize(
    ("lab", "mistake"), [(lab, mistake) for lab, mistakes in LABS.items() for mistake in mistakes]
)
def test_mistake_loses_its_own_points_and_no_others(graded: Graded, lab: str, mistake: str) -> None:
    """Who errs in one place is told so there, and is paid for the rest."""
    student = graded.student_with(mistake)
    planted = graded.students[student]
    full = automatic(graded.release)
    lost = {check for check in full if graded.points[student][check] != full[check]}
    told = graded.course.failures(student)
    own = {other.loses for other in planted.values()}

    assert {check: told.get(check) for check in lost - own} == {}
    assert lost == own
    assert planted[mistake].says in told[planted[mistake].loses]


@pytest.mark.parametrize("lab", LABS)
def test_every_failure_says_what_was_expected_what_came_and_where_to_look(graded: Graded, lab: str) -> None:
    """A bare AssertionError teaches nothing."""
    said = [
        (name, check, message)
        for name in ("untouched", *graded.students)
        for check, message in graded.course.failures(name).items()
    ]
    silent = [
        failure
        for failure in said
        if not re.match(r"AssertionError: expected .*\bgot\b.*\blook\b", failure[2], flags=re.DOTALL)
    ]

    assert said
    assert silent == []


@pytest.mark.parametrize("lab", LABS)
def test_release_has_no_solution_line_and_no_hidden_test(graded: Graded, lab: str) -> None:
    """Not even in a traceback's source, a model answer or a comment."""
    released = {line.strip() for cell in graded.release.cells for line in cell.source.splitlines()}
    secret, public = secret_and_public_lines(source_of(lab))

    assert secret
    assert released & (secret - public) == set()
    assert not any(word in line for line in released for word in ("BEGIN SOLUTION", "HIDDEN TESTS"))


def secret_and_public_lines(source: NotebookNode) -> tuple[set[str], set[str]]:
    """The lines between the markers, and the others; lines as short as ``return pid`` may be both."""
    secret: set[str] = set()
    public: set[str] = set()
    for cell in source.cells:
        target = public
        for line in cell.source.splitlines():
            if "### BEGIN" in line:
                target = secret
            elif "### END" in line:
                target = public
            elif line.strip():
                target.add(line.strip())
    return secret, public


@pytest.mark.parametrize("lab", LABS)
def test_validate_passes_on_the_solution(graded: Graded, lab: str) -> None:
    """The button that students press before they hand in agrees with the grades."""
    assert "Success! Your notebook passes all the tests." in graded.course.validation(STOCK)


@pytest.mark.parametrize("lab", LABS)
def test_feedback_shows_points_and_messages(graded: Graded, lab: str) -> None:
    """An HTML page, with the score at its top."""
    page = graded.course.feedback(ERRING)

    assert "<html" in page
    assert "Score:" in page
    assert "AssertionError" in page
