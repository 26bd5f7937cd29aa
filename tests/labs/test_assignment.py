"""Every lab has the form that nbgrader's scoring asks for; nothing is run here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from labs.course import nbgrader_of, source_of
from nbformat import NotebookNode
from student import ROOT

LABS = sorted(path.parent.name for path in Path(ROOT, "labs").glob("*/*.ipynb"))

pytestmark = pytest.mark.parametrize("lab", LABS)


def graded_cells(lab: str) -> list[NotebookNode]:
    return [cell for cell in source_of(lab).cells if nbgrader_of(cell).get("grade")]


def check_cells(lab: str) -> list[NotebookNode]:
    return [cell for cell in graded_cells(lab) if not nbgrader_of(cell)["solution"]]


def test_notebook_is_named_like_its_assignment(lab: str) -> None:
    """nbgrader asks for a folder an assignment; ours has one notebook of the same name."""
    assert [path.name for path in Path(ROOT, "labs", lab).glob("*.ipynb")] == [f"{lab}.ipynb"]


def test_grade_ids_are_unique_and_in_kebab_case(lab: str) -> None:
    """The gradebook is keyed by them."""
    ids = [nbgrader_of(cell)["grade_id"] for cell in source_of(lab).cells if nbgrader_of(cell)]

    assert len(set(ids)) == len(ids)
    assert [name for name in ids if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", str(name))] == []


def test_metadata_are_of_schema_3(lab: str) -> None:
    """Older ones are refused or converted, and a conversion is a change of every file."""
    assert {nbgrader_of(cell)["schema_version"] for cell in graded_cells(lab)} == {3}


def test_points_in_a_heading_are_those_of_its_checks(lab: str) -> None:
    """What a student reads is what the gradebook counts."""
    promised: dict[str, int] = {}
    counted: dict[str, int] = {}
    heading = ""
    for cell in source_of(lab).cells:
        found = re.match(r"## (.+) \((\d+) points?\)$", cell.source.partition("\n")[0])
        if cell.cell_type == "markdown" and found:
            heading = found[1]
            promised[heading] = int(found[2])
        if nbgrader_of(cell).get("grade"):
            counted[heading] = counted.get(heading, 0) + int(str(nbgrader_of(cell)["points"]))

    assert promised == counted
    assert 5 <= sum(heading.startswith("Task ") for heading in promised) <= 8


def test_a_check_is_worth_one_to_three_points(lab: str) -> None:
    """A check is all or nothing, so it holds one behaviour."""
    points = {str(nbgrader_of(cell)["grade_id"]): nbgrader_of(cell)["points"] for cell in check_cells(lab)}

    assert {name for name, value in points.items() if value not in (1, 2, 3)} == set()


def test_one_question_is_for_a_person(lab: str) -> None:
    """Not everything worth knowing can be checked by a program."""
    manual = [cell for cell in graded_cells(lab) if nbgrader_of(cell)["solution"]]

    assert [cell.cell_type for cell in manual] == ["markdown"]


def test_every_assert_has_a_message_and_no_check_ends_in_a_value(lab: str) -> None:
    """A bare assert teaches nothing; and nbgrader takes a number at the end of a cell for partial credit."""
    for cell in check_cells(lab):
        tree = ast.parse(cell.source)
        asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        assert asserts, cell.source
        assert all(node.msg is not None for node in asserts), cell.source
        last = tree.body[-1]
        assert isinstance(last, ast.Expr | ast.With | ast.Assert), cell.source
        if isinstance(last, ast.Expr):
            function = last.value.func.id  # a call of the check that this cell defines, which returns nothing
            defined = next(node for node in tree.body if getattr(node, "name", "") == function)
            assert not any(isinstance(node, ast.Return) for node in defined.body), cell.source


def test_hidden_tests_only_call_what_students_see(lab: str) -> None:
    """They vary the input of the check above them and never ask for something new."""
    for cell in check_cells(lab):
        hidden = cell.source.partition("### BEGIN HIDDEN TESTS")[2].partition("### END HIDDEN TESTS")[0]
        visible = cell.source.replace(hidden, "")
        calls = {node.func.id for node in ast.walk(ast.parse(hidden)) if is_plain_call(node)}
        assert all(f"def {name}(" in visible for name in calls), cell.source
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(hidden))), cell.source


def is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
