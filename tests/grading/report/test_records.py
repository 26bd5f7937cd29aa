"""What gradebook, journals and notebooks say about a class, read at once."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from grading.classroom import LAB, POINTS, Work, make_course, source
from nbformat import v4
from student import ROOT

from cnlab.grading.report.records import (
    ClassRecord,
    NoSuchAssignment,
    Submission,
    plain,
    read_class,
    tasks_of,
)
from cnlab.grading.steps.course import Course

CLASS = {
    "ada": Work(),
    "bob": Work(scores={**POINTS, "check-mean": 1.0}, late_h=3, penalty=2),
    "eve": Work(
        scores={**POINTS, "question": None}, reasons={"check-total": "\x1b[31mOops\x1b[0m: a\u202eb"}
    ),
    "stock": Work(reasons={"check-mean": "AssertionError: expected 1"}, has_journal=False),
    "fay": Work(by_hand={"check-mean": (1.0, 0.5)}),
    "mia": None,
}


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A class of six."""
    return make_course(tmp_path_factory.mktemp("course"), CLASS)


@pytest.fixture(scope="module")
def record(course: Course) -> ClassRecord:
    """What is known about it."""
    return read_class(course, LAB)


def submission_of(record: ClassRecord, student: str) -> Submission:
    """What `student` handed in."""
    found = next(each.submission for each in record.students if each.id == student)
    assert found is not None
    return found


def test_scores_are_those_of_the_gradebook(course: Course, record: ClassRecord) -> None:
    """One query reads what nbgrader computes submission by submission."""
    with course.gradebook() as gradebook:
        theirs = {
            each.student_id: each.score - each.late_submission_penalty
            for each in gradebook.assignment_submissions(LAB)
        }

    assert theirs == {student.id: submission.score for student, submission in record.submitted}
    assert record.max_score == sum(POINTS.values())


def test_a_corrected_grade_and_extra_credit_count(record: ClassRecord) -> None:
    """What a person put right in formgrader is the grade."""
    assert submission_of(record, "fay").scores[LAB, "check-mean"].points == 1.5


def test_checks_stand_under_their_headings_in_the_notebooks_order(record: ClassRecord) -> None:
    """The gradebook knows no order and no headings; the notebook as written does."""
    assert [(check.name, check.task) for check in record.checks] == [
        ("check-total", "Task 1 · Add up"),
        ("check-total-empty", "Task 1 · Add up"),
        ("check-mean", "Task 2 · $\\mu$ & <more>"),
        ("question", "Question"),
    ]
    assert [check.name for check in record.checks if check.is_manual] == ["question"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("labs/*/lab*.ipynb")), ids=lambda path: path.stem)
def test_every_check_of_the_labs_stands_under_a_task(path: Path) -> None:
    """The report speaks of tasks as the lab does."""
    tasks = tasks_of(nbformat.read(path, as_version=4))
    titles = {title for name, title in tasks.items() if name.startswith("check-")}

    assert titles
    assert [title for title in titles if not re.match(r"Task \d · ", title) or "points" in title] == []


def test_a_check_without_a_heading_is_a_task_of_its_own() -> None:
    """Not all labs have headings."""
    notebook = v4.new_notebook(cells=[cell for cell in source().cells if cell.cell_type == "code"])

    assert tasks_of(notebook)["check-mean"] == "check-mean"


def test_an_answer_that_waits_for_a_person_makes_the_score_not_final(record: ClassRecord) -> None:
    """Half a grade looks like a bad one."""
    assert submission_of(record, "eve").needs_person
    assert not submission_of(record, "ada").needs_person


def test_lateness_is_what_nbgrader_says(record: ClassRecord) -> None:
    """With extensions; the same number that its penalty was computed from."""
    assert submission_of(record, "bob").late_s == 3 * 3600
    assert submission_of(record, "ada").late_s == 0


def test_who_handed_in_nothing_is_there_without_a_submission(record: ClassRecord) -> None:
    """Somebody has to ask how they are."""
    assert [student.id for student in record.students if student.submission is None] == ["mia"]


def test_reasons_are_read_from_the_outputs_where_nbgrader_graded(record: ClassRecord) -> None:
    """Half a class may have been graded before the course had a sandbox."""
    outcomes = submission_of(record, "stock").run.outcomes

    assert (outcomes[LAB, "check-mean"].status, outcomes[LAB, "check-mean"].reason) == (
        "failed",
        "AssertionError: expected 1",
    )
    assert outcomes[LAB, "check-total"].status == "ok"


def test_colours_and_direction_marks_of_a_message_are_gone(record: ClassRecord) -> None:
    """They would paint a terminal, or turn a line around."""
    assert submission_of(record, "eve").run.outcomes[LAB, "check-total"].reason == "Oops: ab"


def test_text_that_no_file_can_hold_becomes_text_that_one_can() -> None:
    """A lone surrogate in a message must not end the report."""
    assert plain("a\ud800\0b\nc").encode() == b"a?b\nc"


def test_event_in_the_first_cell_names_it(tmp_path: Path) -> None:
    """Journals count cells from 0, messages from 1."""
    events = [{"kind": "pids", "text": "too many", "cell": cell} for cell in (0, 4, None)]
    course = make_course(tmp_path, {"eve": Work(events=events)})

    found = submission_of(read_class(course, LAB), "eve").run.events
    assert [event.cell for event in found] == ["1", "5", ""]


def test_an_unknown_assignment_is_refused_with_those_that_exist(course: Course) -> None:
    """One line that says what to type instead."""
    with pytest.raises(NoSuchAssignment, match=f"no assignment 'lab9'; it knows: {LAB}, lab02"):
        read_class(course, "lab9")
