"""How an assignment went: a page, a notebook and tables for the instructor.

Interface: `write_report` writes ``report.html``, ``report.ipynb`` with its outputs, and a CSV file for each
table. They hold names, marks and messages of hidden checks: they are for the instructor alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from cnlab.grading.report.records import ClassRecord
    from cnlab.grading.steps.course import Course

Answers = dict[str, dict[str, str]]


def write_report(course: Course, assignment: str, directory: Path) -> Path:
    """Write the report on `assignment` into `directory` and return its page.

    A new directory is for its owner alone.

    Raises:
        NoSuchAssignment: the gradebook does not know it.
    """
    import nbformat

    from cnlab.grading.report.notebook import execute, report_notebook
    from cnlab.grading.report.page import report_page
    from cnlab.grading.report.records import read_class
    from cnlab.grading.report.similarity import similar_pairs
    from cnlab.grading.report.summary import tables_of

    record = read_class(course, assignment)
    answers = read_answers(course, record)
    released = (cell.source for notebook in _notebooks(course.release(assignment)) for cell in notebook.cells)
    pairs = similar_pairs(answers, released)
    tables = tables_of(record, pairs)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, table in tables.items():
        table.write(directory / f"{name}.csv")
    page = directory / "report.html"
    page.write_text(report_page(record, tables, pairs, answers), encoding="utf-8")
    notebook = report_notebook(assignment)
    execute(notebook, directory)
    nbformat.write(notebook, directory / "report.ipynb")
    return page


def read_answers(course: Course, record: ClassRecord) -> Answers:
    """Return each student's code by answer, from the notebooks that have run."""
    from cnlab.grading.report.similarity import answers_of

    answers: Answers = {}
    for student, _ in record.submitted:
        for notebook in _notebooks(course.autograded(student.id, record.assignment)):
            answers.setdefault(student.id, {}).update(answers_of(notebook))
    return answers


def _notebooks(directory: Path) -> Iterator[NotebookNode]:
    from nbformat import v4

    for path in sorted(directory.glob("*.ipynb")):
        yield v4.reads(path.read_text(encoding="utf-8"))  # written by us: no need to validate it once more
