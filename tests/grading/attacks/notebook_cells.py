"""Cells and metadata that are not what they were: nothing of it is the submission's to decide."""

from __future__ import annotations

import copy

import nbformat
from grading.attacks.assignment import TASKS
from grading.attacks.attack import Submission, attack, grade_id_of
from nbformat import NotebookNode

PASSES = "a check that was not passed is paid, or other points than the source's"


def checks_of(by: Submission) -> list[NotebookNode]:
    """The cells of the checks."""
    return [cell for cell in by.notebook.cells if grade_id_of(cell).startswith("check-")]


@attack(PASSES)
def tag_to_skip(by: Submission) -> None:
    """Tag the checks `skip-execution`: no output, no error, full marks."""
    for cell in checks_of(by):
        cell.metadata["tags"] = ["skip-execution"]


@attack(PASSES)
def tag_as_expected_to_fail(by: Submission) -> None:
    """Tag the checks `raises-exception`, and claim that errors are allowed everywhere."""
    for cell in checks_of(by):
        cell.metadata["tags"] = ["raises-exception", "remove-output", "nbval-skip"]
    by.notebook.metadata["execution"] = {"allow_errors": True, "timeout": -1}


@attack(PASSES, earns=("mean",))
def delete_the_checks(by: Submission) -> None:
    """Delete all checks."""
    by.notebook.cells = [cell for cell in by.notebook.cells if cell not in checks_of(by)]


@attack(PASSES, earns=("mean",))
def empty_the_checks(by: Submission) -> None:
    """Replace the checks by an empty cell, a comment, or a number that is full marks."""
    for cell, source in zip(
        checks_of(by), ("", "# nothing", "2", "64", "pass", "32", "128", "64"), strict=True
    ):
        cell.source = source


@attack(PASSES, earns=("mean",))
def duplicate_the_checks(by: Submission) -> None:
    """Give each check twice, of which the second, or the first, does nothing."""
    for number, cell in enumerate(checks_of(by)):
        other = copy.deepcopy(cell)
        other.source = "pass"
        other.id = f"other-{number}"
        by.notebook.cells.insert(by.notebook.cells.index(cell) + number % 2, other)


@attack(PASSES)
def retag_checks_as_solutions(by: Submission) -> None:
    """Declare the checks solutions, which the student may write."""
    for cell in checks_of(by):
        cell.metadata["nbgrader"] |= {"solution": True, "locked": False}
        cell.source = "pass"


@attack(PASSES)
def retag_checks_as_ungraded(by: Submission) -> None:
    """Declare the checks neither graded nor locked, and something else graded instead."""
    for cell in checks_of(by):
        cell.metadata["nbgrader"] |= {"grade": False, "locked": False, "solution": False}
    made = nbformat.v4.new_code_cell("assert True")
    made.metadata["nbgrader"] = {
        "schema_version": 3, "grade_id": "check-mean", "grade": True, "locked": True, "solution": False,
        "task": False, "points": 127,
    }  # fmt: skip
    by.notebook.cells.append(made)


@attack(PASSES, earns=("mean",))
def raise_the_points(by: Submission) -> None:
    """Make the easy check worth all points, another negative, infinite, or a text."""
    for cell, points in zip(checks_of(by), (255, -1, 1e308, "9", None, True, 0, [64]), strict=True):
        cell.metadata["nbgrader"]["points"] = points


@attack(PASSES, earns=("mean",))
def swap_the_checks(by: Submission) -> None:
    """Exchange the grade ids, so that the check one passes is paid as the one worth more."""
    first, *others = checks_of(by)
    ids = [grade_id_of(cell) for cell in others]
    for cell in others:
        cell.metadata["nbgrader"]["grade_id"] = grade_id_of(first)
        cell.source = first.source
    first.metadata["nbgrader"]["grade_id"] = ids[-1]


@attack(PASSES, earns=("mean",))
def move_the_checks(by: Submission) -> None:
    """Put the checks before the answers, or all at the end after a cell that redefines things."""
    checks = checks_of(by)
    rest = [cell for cell in by.notebook.cells if cell not in checks]
    by.notebook.cells = [*checks[3:], *rest, *checks[:3]]


@attack(PASSES, earns=("mean",))
def turn_checks_into_text(by: Submission) -> None:
    """Make the checks markdown or raw, which a person would have to look at."""
    for number, cell in enumerate(checks_of(by)):
        cell.cell_type = ("markdown", "raw")[number % 2]
        cell.pop("outputs", None)
        cell.pop("execution_count", None)


@attack(PASSES)
def turn_answers_into_text(by: Submission) -> None:
    """Make the answers markdown, so that no code runs, and the essay code that grades itself."""
    for task in TASKS:
        cell = by.cell(task)
        cell.cell_type = "markdown"
        cell.pop("outputs", None)
        cell.pop("execution_count", None)
    essay = by.cell("essay")
    essay.cell_type, essay["outputs"], essay["execution_count"] = "code", [], None
    essay.source = "100"
    essay.metadata["nbgrader"] |= {"solution": False, "locked": True}


@attack(PASSES, earns=("mean",))
def forge_stored_outputs(by: Submission) -> None:
    """Hand in checks with outputs of a run that never was."""
    for cell in checks_of(by):
        full = {"text/plain": str(cell.metadata["nbgrader"]["points"])}
        cell.outputs = [nbformat.v4.new_output("execute_result", data=full, execution_count=1)]
        cell.execution_count = 1


@attack(PASSES, earns=("mean",))
def change_versions_and_checksums(by: Submission) -> None:
    """Claim other versions of nbgrader's metadata, and checksums that say all is untouched."""
    versions = [0, 1, 2, 99, "3", None, 3.5, [3]]
    for cell, version in zip(checks_of(by), versions, strict=True):
        cell.metadata["nbgrader"] |= {
            "schema_version": version,
            "checksum": "0" * 32,
            "cell_type": "markdown",
        }
    for task in TASKS:
        cell = by.cell(task)
        cell.metadata["nbgrader"] |= {"checksum": "0" * 32, "grade": True, "points": 50}


@attack(PASSES, earns=("mean",))
def metadata_of_other_types(by: Submission) -> None:
    """Put lists, numbers and texts where nbgrader expects its dictionary."""
    for cell, value in zip(checks_of(by), ([], 1, "x", None, {}, [[]], 2.5, {"grade_id": []}), strict=True):
        cell.metadata["nbgrader"] = value


@attack(PASSES, earns=("mean",))
def other_kernel(by: Submission) -> None:
    """Ask for another kernel: a shell, one that does not exist, a path, the private machine."""
    by.notebook.metadata["kernelspec"] = {"name": "../../bin/true", "display_name": "x", "language": "bash"}
    by.notebook.metadata["language_info"] = {"name": "bash", "file_extension": ".sh"}


@attack(PASSES, earns=("mean",))
def other_kernel_that_exists(by: Submission) -> None:
    """Ask for the kernel of the labs with root, in which one would be root."""
    by.notebook.metadata["kernelspec"] = {"name": "cnlab", "display_name": "x", "language": "python"}
    by.run("if os.geteuid() == 0 and os.path.exists('/dev/ubda'): breach('chose the machine')")


@attack(PASSES)
def confusable_ids(by: Submission) -> None:
    """Add checks whose ids look like the real ones: Cyrillic letters, capitals, spaces, full width."""
    for number, grade_id in enumerate(
        (
            "\u0441heck-mean",
            "Check-mean",
            "check-mean ",
            "\uff43heck-mean",
            "check\u2010mean",
            "check-mean\u200b",
            "check-mean\0",
        )
    ):
        cell = nbformat.v4.new_code_cell("pass", id=f"confusable-{number}")
        cell.metadata["nbgrader"] = {
            "schema_version": 3, "grade_id": grade_id, "grade": True, "locked": True, "solution": False,
            "task": False, "points": 64, "cell_type": "code",
        }  # fmt: skip
        by.notebook.cells.append(cell)


@attack(PASSES)
def answer_that_claims_to_be_a_check(by: Submission) -> None:
    """Give the id of a check to one's own cell, and the check's cell the id of an answer."""
    mine, check = by.cell("mean"), by.cell("check-mean")
    mine.metadata["nbgrader"]["grade_id"], check.metadata["nbgrader"]["grade_id"] = "check-mean", "mean"
    extra = nbformat.v4.new_code_cell("pass")
    extra.metadata["nbgrader"] = dict(by.cell("check-shout").metadata["nbgrader"])
    by.notebook.cells.insert(1, extra)


@attack(PASSES)
def two_answers_of_one_id(by: Submission) -> None:
    """Hand in a cell of an answer twice; neither is right."""
    other = copy.deepcopy(by.cell("mean"))
    other.id = "twice"
    other.source = "mean = lambda values: True"
    by.notebook.cells.append(other)


@attack(PASSES, earns=("mean",))
def markers_in_answers(by: Submission) -> None:
    """Write nbgrader's own marker lines into answers, so that what is between them is cut or shown."""
    for task in ("shout", "invert", "refuse"):
        by.answer(
            task,
            "### END SOLUTION\nreturn None\n### BEGIN HIDDEN TESTS\n### END HIDDEN TESTS\n### BEGIN SOLUTION",
            above="### BEGIN MARK SCHEME\n### BEGIN HIDDEN TESTS",
        )
    by.run("### END HIDDEN TESTS\n### END HIDDEN TESTS")
    by.cell("check-shout").source = "### BEGIN HIDDEN TESTS\n### BEGIN HIDDEN TESTS"


@attack(PASSES, earns=("mean",))
def edit_the_locked_cells(by: Submission) -> None:
    """Rewrite the instructor's imports and helper functions, and the words of the task."""
    by.cell("imports").source = "def is_close(*args): return True\nclass np:\n    allclose = lambda *a: True"
    by.cell("heading").source = "# Every answer is right"


@attack(PASSES, earns=("mean",))
def delete_the_locked_cells(by: Submission) -> None:
    """Delete the imports; the task's own names are missing then."""
    by.notebook.cells = [
        cell for cell in by.notebook.cells if grade_id_of(cell) not in ("imports", "heading")
    ]


@attack(PASSES, earns=("mean", "square"))
def same_cell_ids(by: Submission) -> None:
    """Give all cells the same id, and one an id of a megabyte."""
    for cell in by.notebook.cells:
        cell.id = "same"
    by.notebook.cells[-1].id = "x" * (1 << 20)


@attack(PASSES, earns=("mean",))
def attachments_and_comments(by: Submission) -> None:
    """Fill metadata with attachments, and claim manual points and comments."""
    by.cell("essay").metadata["nbgrader"] |= {"manual_score": 100, "score": 100, "comment": "well done"}
    by.cell("essay")["attachments"] = {"../../x.png": {"image/png": "AAAA"}}
    by.notebook.metadata["nbgrader"] = {"score": 227, "max_score": 1, "grades": {"check-mean": 64}}
    for cell in checks_of(by):
        cell.metadata["nbgrader"] |= {"auto_score": 64, "score": 64, "extra_credit": 100, "timeout": 10**9}


@attack(PASSES, earns=("mean",), may_lose=True)
def ten_thousand_cells(by: Submission) -> None:
    """Hand in ten thousand cells."""
    by.notebook.cells += [nbformat.v4.new_code_cell("1", id=f"n{number}") for number in range(10_000)]
