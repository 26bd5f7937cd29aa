"""Whatever was done to a notebook, the course's checks run, once each; an honest accident costs nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from cnlab.grading.steps.course import role_of
from cnlab.grading.steps.repair import Master, MasterCell, Repaired, repair
from cnlab.grading.steps.submission import SubmittedCell


def master_cell(own_id: str, source: str, *, kind: str = "", released: str | None = None) -> MasterCell:
    """A cell of the course; its kind is said in nbgrader's words."""
    claims = dict.fromkeys(kind.split(), True)
    cell_type = "markdown" if claims.pop("markdown", False) else "code"
    return MasterCell(
        role=role_of(cell_type, claims) if claims else ("text" if cell_type == "markdown" else "student"),
        cell_type=cell_type,
        source=source,
        released=source if released is None else released,
        id=own_id,
        grade_id=own_id if claims else "",
        metadata={"nbgrader": {"grade_id": own_id, **claims}} if claims else {},
    )


MASTER = Master(
    "ps1",
    (
        master_cell("title", "# Title", kind="markdown"),
        master_cell("setup", "import math", kind="locked"),
        master_cell("task-1", "## Task 1", kind="markdown"),
        master_cell("square", "def square(x):\n    raise NotImplementedError()", kind="solution"),
        master_cell(
            "check-1", "assert square(2) == 4\nHIDDEN", kind="grade locked", released="assert square(2) == 4"
        ),
        master_cell("task-2", "## Task 2", kind="markdown"),
        master_cell("cube", "def cube(x):\n    raise NotImplementedError()", kind="solution"),
        master_cell("check-2", "assert cube(2) == 8", kind="grade locked"),
        master_cell("check-3", "assert cube(3) == 27", kind="grade locked"),
        master_cell("essay", "YOUR ANSWER HERE", kind="markdown grade solution"),
    ),
    {"kernelspec": {"name": "python3"}},
)
SOLVED = {
    "square": "def square(x):\n    return x * x",
    "cube": "def cube(x):\n    return x**3",
    "essay": "So.",
}


def submission(**changed: str) -> list[SubmittedCell]:
    """What an honest student hands in."""
    sources = SOLVED | changed
    return [
        SubmittedCell(cell.cell_type, sources.get(cell.id, cell.released), cell.grade_id, cell.id)
        for cell in MASTER.cells
    ]


def own(source: str, cell_type: str = "code", grade_id: str = "") -> SubmittedCell:
    """A cell that a student has added."""
    return SubmittedCell(cell_type, source, grade_id)


def at(cells: Sequence[SubmittedCell], grade_id: str) -> int:
    """Where the cell with this id is."""
    return next(number for number, cell in enumerate(cells) if cell.id == grade_id)


def order(repaired: Repaired) -> list[str]:
    """The cells' grade ids, or the sources of those that have none."""
    return [
        grade_id or cell["source"]
        for (_, grade_id), cell in zip(repaired.roles, repaired.notebook["cells"], strict=True)
    ]


UNTOUCHED = order(repair(MASTER, submission()))


def test_honest_notebook_keeps_its_cells_and_gets_the_hidden_tests() -> None:
    """Nothing to mend, nothing to say."""
    repaired = repair(MASTER, submission())
    sources = {
        grade_id: cell["source"]
        for (_, grade_id), cell in zip(repaired.roles, repaired.notebook["cells"], strict=True)
    }

    assert repaired.notes == ()
    assert order(repaired) == [cell.grade_id or cell.source for cell in MASTER.cells]
    assert sources["check-1"].endswith("HIDDEN")
    assert sources["square"] == SOLVED["square"]


def test_roles_come_from_the_course() -> None:
    """By them it is decided what runs where."""
    assert [role for role, _ in repair(MASTER, submission()).roles] == [
        "text", "setup", "text", "student", "test", "text", "student", "test", "test", "text",
    ]  # fmt: skip


def test_kernelspec_and_metadata_of_the_notebook_are_the_courses() -> None:
    """Another kernel could be anything."""
    assert repair(MASTER, submission()).notebook["metadata"] == {"kernelspec": {"name": "python3"}}


def test_deleted_check_is_put_back_after_its_task() -> None:
    """It fails or passes there as it would have."""
    cells = submission()
    del cells[at(cells, "check-1")]

    repaired = repair(MASTER, cells)

    assert order(repaired) == UNTOUCHED
    assert repaired.notes == ("the check `check-1` was missing; it was put back after `square`",)


def test_check_put_back_stands_behind_the_cells_that_the_student_added() -> None:
    """The answer may be in one of them."""
    cells = submission()
    del cells[at(cells, "check-1")]
    cells.insert(at(cells, "square") + 1, own("helper = 1"))

    assert order(repair(MASTER, cells))[3:6] == ["square", "helper = 1", "check-1"]


def test_check_that_was_dragged_above_its_task_is_put_back() -> None:
    """Run there it would know nothing of the answer."""
    cells = submission()
    cells.insert(0, cells.pop(at(cells, "check-2")))

    repaired = repair(MASTER, cells)

    assert order(repaired) == UNTOUCHED
    assert repaired.notes == ("the check `check-2` had been moved; it was put back after `cube`",)


def test_check_that_was_dragged_to_the_end_is_put_back() -> None:
    """Later cells may have defined the name anew."""
    cells = submission()
    cells.append(cells.pop(at(cells, "check-1")))

    assert order(repair(MASTER, cells)) == UNTOUCHED


def test_answer_that_was_dragged_below_its_check_takes_the_check_along() -> None:
    """The student's cells stay where the student wants them."""
    cells = submission()
    cells.append(cells.pop(at(cells, "square")))

    repaired = repair(MASTER, cells)

    assert order(repaired).index("square") < order(repaired).index("check-1")
    assert "the check `check-1` had been moved; it was put back after `square`" in repaired.notes


def test_imports_that_were_dragged_to_the_end_come_first_again() -> None:
    """Everything needs them."""
    cells = submission()
    cells.append(cells.pop(at(cells, "setup")))

    assert order(repair(MASTER, cells)) == UNTOUCHED


def test_edited_check_is_set_back_and_named() -> None:
    """Honest students fix what they take for a mistake; others write `pass`."""
    repaired = repair(MASTER, submission(**{"check-2": "pass"}))

    assert [c["source"] for c in repaired.notebook["cells"] if c["id"] == "check-2"] == [
        "assert cube(2) == 8"
    ]
    assert repaired.notes == ("the check `check-2` had been edited; it was set back to the course's",)


def test_trailing_space_is_no_edit() -> None:
    """Editors add and take it without being asked."""
    assert repair(MASTER, submission(**{"check-2": "assert cube(2) == 8  \n"})).notes == ()


def test_split_check_is_whole_again() -> None:
    """JupyterLab's split leaves two cells with one id."""
    cells = submission()
    place = at(cells, "check-1")
    cells[place : place + 1] = [
        SubmittedCell("code", "assert", "check-1", "a"),
        SubmittedCell("code", "square(2) == 4", "check-1", "b"),
    ]

    repaired = repair(MASTER, cells)

    assert [grade_id for _, grade_id in repaired.roles].count("check-1") == 1
    assert "there were 2 cells `check-1`; the last one counts" in repaired.notes


@pytest.mark.parametrize("stub_first", [True, False])
def test_untouched_copy_of_an_answer_does_not_undo_the_work(stub_first: bool) -> None:
    """A student copies the cell to start anew, or to keep the task's text; the work is in one of them."""
    cells = submission()
    place = at(cells, "square")
    stub = SubmittedCell("code", MASTER.cells[3].released, "square", "copy")
    cells.insert(place if stub_first else place + 1, stub)

    repaired = repair(MASTER, cells)

    assert order(repaired) == UNTOUCHED
    assert [c["source"] for c in repaired.notebook["cells"] if c["id"] == "square"] == [SOLVED["square"]]
    assert repaired.notes == ("there were 2 cells `square`; the last one that was changed counts",)


def test_of_two_answers_the_last_counts_and_the_first_stays() -> None:
    """As nbgrader has it, and as running the notebook has it."""
    cells = submission()
    cells.insert(at(cells, "square"), SubmittedCell("code", "def square(x):\n    return 0", "square", "copy"))

    repaired = repair(MASTER, cells)

    assert order(repaired)[3:5] == ["def square(x):\n    return 0", "square"]


def test_answer_without_its_metadata_is_known_by_its_id() -> None:
    """Some programs drop metadata that they do not know."""
    cells = [SubmittedCell(cell.cell_type, cell.source, "", cell.id) for cell in submission()]

    assert order(repair(MASTER, cells)) == UNTOUCHED


def test_answer_in_a_new_cell_is_known_by_the_function_it_defines() -> None:
    """Copying the text into a fresh cell and deleting the old one is what many do."""
    cells = [cell for cell in submission() if cell.id != "square"]
    cells.insert(3, own(SOLVED["square"]))

    repaired = repair(MASTER, cells)

    assert order(repaired) == UNTOUCHED
    assert repaired.notes == ("the cell `square` had lost its name; it was known by what is in it",)


def test_missing_answer_that_a_person_grades_is_put_back_empty() -> None:
    """So that it gets its zero, and a page that shows where."""
    cells = [cell for cell in submission() if cell.id != "essay"]

    repaired = repair(MASTER, cells)

    assert order(repaired) == UNTOUCHED
    assert repaired.notebook["cells"][-1]["source"] == "YOUR ANSWER HERE"
    assert repaired.notes == ("the answer `essay` was missing; it was put back after `check-3`",)


def test_missing_code_is_not_put_back() -> None:
    """The stub would overwrite what the student has defined elsewhere."""
    cells = [cell for cell in submission() if cell.id != "square"]

    assert "square" not in order(repair(MASTER, cells))


def test_cell_type_is_set_back() -> None:
    """One key stroke in JupyterLab makes code into text."""
    cells = [
        SubmittedCell("markdown", c.source, c.grade_id, c.id) if c.id == "square" else c for c in submission()
    ]

    repaired = repair(MASTER, cells)

    assert [cell["cell_type"] for cell in repaired.notebook["cells"] if cell["id"] == "square"] == ["code"]
    assert repaired.notes == ("the cell `square` had become markdown; it was set back",)


@pytest.mark.parametrize(
    "claim", ["check-4", "Check-1", "check-1 ", "\N{CYRILLIC SMALL LETTER ES}heck-1", "__proto__", ""]
)
def test_cell_that_claims_an_unknown_id_is_an_ordinary_cell(claim: str) -> None:
    """A hundred points for a check of one's own, or a twin of another in look-alike letters."""
    repaired = repair(MASTER, [*submission(), own("pass", grade_id=claim)])

    assert repaired.roles[-1] == ("student", "")
    assert repaired.notebook["cells"][-1]["metadata"] == {}


def test_student_cannot_end_the_cell_of_a_check_early() -> None:
    """Markers in the student's cells mean nothing."""
    repaired = repair(MASTER, [*submission(), own("### BEGIN HIDDEN TESTS"), own("### END SOLUTION")])

    assert order(repaired)[: len(UNTOUCHED)] == UNTOUCHED


def test_empty_notebook_still_has_every_check() -> None:
    """And so no points that nobody earned."""
    repaired = repair(MASTER, [])

    assert [grade_id for role, grade_id in repaired.roles if role == "test"] == [
        "check-1",
        "check-2",
        "check-3",
    ]


def test_cell_ids_are_unique() -> None:
    """nbformat requires it; a submission may repeat them."""
    cells = [
        *submission(),
        SubmittedCell("code", "1", "", "square"),
        SubmittedCell("code", "2", "", "square"),
    ]
    ids = [cell["id"] for cell in repair(MASTER, cells).notebook["cells"]]

    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("seed", range(200))
def test_every_check_runs_once_behind_its_task_whatever_was_done(seed: int) -> None:
    """Two hundred notebooks with cells deleted, copied, moved, edited and robbed of their names."""
    rng = random.Random(seed)
    cells = submission()
    for _ in range(rng.randrange(1, 8)):
        place, other = rng.randrange(len(cells) + 1), rng.randrange(len(cells) + 1)
        match rng.choice(["delete", "copy", "move", "edit", "rename", "add"]):
            case "delete":
                del cells[place : place + 1]
            case "copy":
                cells[other:other] = cells[place : place + 1]
            case "move":
                moved = cells[place : place + 1]
                del cells[place : place + 1]
                cells[other:other] = moved
            case "edit":
                cells[place : place + 1] = [
                    SubmittedCell(c.cell_type, "pass", c.grade_id, c.id) for c in cells[place : place + 1]
                ]
            case "rename":
                cells[place : place + 1] = [
                    SubmittedCell(c.cell_type, c.source, "x", "") for c in cells[place : place + 1]
                ]
            case "add":
                cells.insert(place, own("extra = 1"))
    repaired = repair(MASTER, cells)
    ids = [grade_id for _, grade_id in repaired.roles]
    before = {"check-1": ["square"], "check-2": ["square", "cube"], "check-3": ["square", "cube", "check-2"]}

    for check, earlier in before.items():
        assert ids.count(check) == 1
        assert all(ids.index(other) < ids.index(check) for other in earlier if other in ids)
    assert ids.count("setup") == 1
    for cell, (_, grade_id) in zip(repaired.notebook["cells"], repaired.roles, strict=True):
        if grade_id.startswith("check"):
            assert cell["source"] == next(c.source for c in MASTER.cells if c.grade_id == grade_id)
