"""Scores are nbgrader's where its rules make sense; a gradebook never shows half a submission."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from grading.problem_set import NAME, claims, grades, make_course

from cnlab.grading.steps.course import Course
from cnlab.grading.steps.gradebook import Books, marks_of, record

Output = dict[str, Any]


def result(text: str) -> Output:
    data = {"text/plain": text}
    return {"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": 1}


ERROR: Output = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}


def score_of(*outputs: Output) -> tuple[float | None, str]:
    """The score of a check worth two points that ended so, and what is wrong with it."""
    metadata = claims("check", grade=True, locked=True, points=2)
    cell = {"cell_type": "code", "source": "", "metadata": metadata, "outputs": list(outputs)}
    score = marks_of({"cells": [cell]}).scores["check"]
    return score.score, score.problem


@pytest.mark.parametrize(
    ("outputs", "score"),
    [
        ([], 2.0),
        ([ERROR], 0.0),
        ([result("1.5")], 1.5),
        ([result("0")], 0.0),
        ([result("np.float64(0.5)")], 0.5),
        ([result("'fine'")], 2.0),
        ([result("1"), ERROR], 0.0),
        ([{"output_type": "display_data", "data": {"image/png": ""}, "metadata": {}}], 2.0),
        ([{**result(""), "data": {"image/png": ""}}], 2.0),
    ],
)
def test_check_has_the_points_that_its_outputs_say(outputs: list[Output], score: float) -> None:
    """An error is nothing, a last number is partial credit, all else is full."""
    assert score_of(*outputs) == (score, "")


@pytest.mark.parametrize(
    "text", ["nan", "-1", "inf", "-inf", "2.5", "1e999", "np.float64(nan)", "np.int64(-3)"]
)
def test_number_out_of_range_is_worth_nothing_and_a_person_looks(text: str) -> None:
    """nbgrader gives full points for most of them, and a student may have made the number."""
    score, problem = score_of(result(text))

    assert score == 0
    assert "not from 0 to 2" in problem


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A course with nobody in it."""
    return make_course(tmp_path_factory.mktemp("gradebook") / "course")


def enter(course: Course, books: Books, student: str) -> None:
    marks = marks_of({"cells": []})
    with books.transaction() as gradebook:
        record(gradebook, course, assignment=NAME, student=student, timestamp=None, marks={NAME: marks})
        assert not any(row[0] == student for row in seen_by_others(course))
        if student == "unlucky":
            raise KeyboardInterrupt


def seen_by_others(course: Course) -> list[tuple[Any, ...]]:
    return grades(course)


def test_nobody_sees_a_submission_before_it_is_complete(course: Course) -> None:
    """The formgrader reads at any moment."""
    with Books(course) as books:
        enter(course, books, "lucky")

    assert any(row[0] == "lucky" for row in grades(course))


def test_nothing_is_left_of_a_transaction_that_ends_badly(course: Course) -> None:
    """Neither marks nor the student."""
    with Books(course) as books, pytest.raises(KeyboardInterrupt):
        enter(course, books, "unlucky")
    with sqlite3.connect(course.root / "gradebook.db") as database:
        students = {row[0] for row in database.execute("SELECT id FROM student")}

    assert "unlucky" not in students


def test_person_cannot_save_points_between_our_reading_and_writing(course: Course, tmp_path: Path) -> None:
    """Else a mark given at that instant would not be marked for review."""
    with Books(course) as books, books.transaction() as gradebook:
        gradebook.find_assignment(NAME)
        other = sqlite3.connect(course.root / "gradebook.db", timeout=0)
        try:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("UPDATE grade SET manual_score = 1")
        finally:
            other.close()
