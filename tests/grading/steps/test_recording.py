"""A submission that cannot be recorded says so, and stands in nobody's way."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from grading.problem_set import NAME, answered, make_course, scores, submit

from cnlab.grading.job import Job, Result
from cnlab.grading.steps import journal
from cnlab.grading.steps.assignment import Assignment
from cnlab.grading.steps.autograde import Autograding
from cnlab.grading.steps.course import Course


@pytest.fixture
def course(tmp_path: Path) -> Course:
    """A course in which two students have handed in their work."""
    course = make_course(tmp_path / "course")
    for student in ("ada", "bob"):
        submit(course, student, answered(course))
    return course


def grading(course: Course) -> Autograding:
    return Autograding(course, Assignment.load(course, NAME), which="all")


def all_pass(jobs: Iterable[Job]) -> Iterator[Result]:
    """Stand for workers that have found nothing wrong."""
    for job in jobs:
        yield Result(job.key, job.notebook)


def test_marks_of_an_earlier_run_are_said_to_be_old(course: Course) -> None:
    """They stay, for work that was once graded is not lost by a broken worker."""
    assert not [outcome.error for outcome in grading(course).run(all_pass) if outcome.error]
    before = scores(course, "ada")

    def breaks(jobs: Iterable[Job]) -> Iterator[Result]:
        for job in jobs:
            yield Result(job.key, job.notebook, error="the machine broke")

    for outcome in grading(course).run(breaks):
        assert outcome.error.startswith("the machine broke (the gradebook")
        assert "of an earlier run" in outcome.error
    assert scores(course, "ada") == before
    assert before["check-cube"] == 1


def test_failure_that_cannot_be_noted_ends_no_run(course: Course) -> None:
    """A disk is full, or as here a file stands where journals belong; the next run grades them again."""

    def meanwhile(jobs: Iterable[Job]) -> Iterator[Result]:
        shutil.rmtree(course.runs(NAME), ignore_errors=True)
        course.runs(NAME).parent.mkdir(parents=True, exist_ok=True)
        course.runs(NAME).touch()
        yield from all_pass(jobs)

    outcomes = list(grading(course).run(meanwhile))
    assert [outcome.student for outcome in outcomes] == ["ada", "bob"]
    assert all("this could not be noted" in outcome.error for outcome in outcomes)

    course.runs(NAME).unlink()
    assert not [outcome.error for outcome in grading(course).run(all_pass) if outcome.error]
    assert len(journal.read_all(course, NAME)) == 2
