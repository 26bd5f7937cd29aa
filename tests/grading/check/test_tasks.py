"""A student says which task is meant in whatever way comes to mind."""

from __future__ import annotations

import pytest
from grading.small_lab import SQUARE, small_lab

from cnlab.errors import InvalidValue
from cnlab.grading.check.tasks import choose, is_as_run, read_tasks


def chosen(wanted: str | int) -> list[str]:
    return [check.grade_id for task in choose(read_tasks(small_lab()).tasks, wanted) for check in task.checks]


def test_task_is_a_section_with_checks() -> None:
    """Prose and essays have nothing that a program could check."""
    titles = [task.title for task in read_tasks(small_lab()).tasks]

    assert titles == ["Task 1 · Square a number with `square`", "Task 2 · Greet"]


@pytest.mark.parametrize(
    "wanted", ["square", "square-it", "Task 1", "task 1", "1", 1, "Task 1 · Square a number with `square`"]
)
def test_task_answers_to_its_function_its_answer_its_number_and_its_heading(wanted: str | int) -> None:
    """Nobody should have to look up what it is called."""
    assert chosen(wanted) == ["check-square", "check-square-type"]


def test_check_answers_to_its_own_name() -> None:
    """Feedback names checks."""
    assert chosen("check-square-type") == ["check-square-type"]


def test_nothing_named_means_all() -> None:
    """What one does before handing in."""
    assert chosen("") == ["check-square", "check-square-type", "check-greet"]


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [("gret-them", "'greet-them'"), ("zz", "'square-it', 'greet-them'"), (12, "there are")],
)
def test_unknown_name_is_answered_with_those_that_there_are(wanted: str | int, hint: str) -> None:
    """A typing error is the commonest error."""
    with pytest.raises(InvalidValue, match=hint):
        chosen(wanted)


def test_comment_at_the_top_says_what_a_check_is_about() -> None:
    """It stands beside the verdict, in one line."""
    [task, _] = read_tasks(small_lab()).tasks

    assert [check.says for check in task.checks] == ["Belief: squares of negative numbers are negative.", ""]


@pytest.mark.parametrize(
    ("ran", "is_so"),
    [
        (["1", SQUARE], True),
        ([SQUARE, "square(3)"], True),
        (["1"], False),
        ([SQUARE, "def square(x): return x"], False),
        (["def square(x): return x", SQUARE], True),
    ],
)
def test_answer_is_as_it_was_run_when_the_last_definition_is(ran: list[str], is_so: bool) -> None:
    """Otherwise something else is handed in than was checked."""
    [task, _] = read_tasks(small_lab()).tasks

    assert is_as_run(task.solutions[0], ran) is is_so


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"cells": None},
        {"cells": [None, 1, {}, {"cell_type": "code", "source": 5, "metadata": []}]},
        {"cells": [{"cell_type": "code", "source": "def (", "metadata": {"nbgrader": {"solution": True}}}]},
    ],
)
def test_file_that_is_no_notebook_has_no_tasks(broken: dict[str, object]) -> None:
    """Whatever lies beside the notebook is looked into."""
    assert read_tasks(broken).tasks == ()
