"""An nbgrader course of its own for one lab, run by a user without privileges."""

from __future__ import annotations

import copy
import io
import sqlite3
import subprocess
import textwrap
from pathlib import Path

import nbformat
from labs.mistakes import Mistake
from nbformat import NotebookNode
from nbgrader.preprocessors import CheckCellMetadata
from nbgrader.validator import Validator
from student import ROOT, Student

from cnlab.grading.steps import display

STUB = "# YOUR CODE HERE\nraise NotImplementedError()"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


def source_of(lab: str) -> NotebookNode:
    """The lab as its author wrote it."""
    return nbformat.read(ROOT / "labs" / lab / f"{lab}.ipynb", as_version=4)


def nbgrader_of(cell: NotebookNode) -> dict[str, object]:
    """The cell's metadata for nbgrader; empty for plain prose and code."""
    return cell.metadata.get("nbgrader", {})


def solutions(notebook: NotebookNode) -> dict[str, str]:
    """The solution of each task by its grade id: what stands between the markers, dedented."""
    found = {}
    for cell in notebook.cells:
        if nbgrader_of(cell).get("solution") and cell.cell_type == "code":
            _, _, rest = cell.source.partition(f"{BEGIN}\n")
            found[str(nbgrader_of(cell)["grade_id"])] = textwrap.dedent(rest.partition(END)[0].rstrip(" "))
    return found


def filled_in(release: NotebookNode, answers: dict[str, str]) -> NotebookNode:
    """The release with `answers` where it says YOUR CODE HERE, as a student would hand it in."""
    notebook = copy.deepcopy(release)
    for cell in notebook.cells:
        answer = answers.get(str(nbgrader_of(cell).get("grade_id")))
        if answer is not None:
            stub, code = (textwrap.indent(text.rstrip("\n"), "    ") for text in (STUB, answer))
            assert cell.source.count(stub) == 1, cell.source
            cell.source = cell.source.replace(stub, code)
    return notebook


def with_words(notebook: NotebookNode) -> NotebookNode:
    """The same with an answer where a person will look; nbgrader asks for some words there."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and nbgrader_of(cell).get("solution"):
            cell.source = "Because the kernel says so."
    return notebook


class Course:
    """The course of one lab. Its directory is in the home of `student`, who is the instructor here too."""

    def __init__(self, lab: str, student: Student) -> None:
        self.lab = lab
        self.student = student
        self.directory = student.home / "course"

    def nbgrader(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run nbgrader as `grading/nbgrader_config.py` says: in its directory."""
        return self._run("nbgrader", *arguments)

    def grade(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``cnlab grade`` there."""
        return self._run("cnlab", "grade", *arguments)

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        done = self.student.run(
            list(command),
            cwd=ROOT / "grading",
            env={"CNLAB_COURSE": str(self.directory)},
            timeout=2000,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        return done

    def release(self) -> NotebookNode:
        """Make the students' version and return it."""
        self.nbgrader("generate_assignment", self.lab)
        return nbformat.read(self._notebook("release"), as_version=4)

    def submit(self, name: str, notebook: NotebookNode) -> None:
        """Put `notebook` where nbgrader finds what `name` has handed in."""
        path = self._notebook("submitted", name)
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)

    def validation(self, name: str) -> str:
        """What nbgrader's Validate button says of the work of `name`.

        The button first runs all cells, as nbgrader has done to grade them: they are not run once more."""
        notebook = self._autograded(name)
        path = self.student.home / f"{name}.ipynb"
        nbformat.write(notebook, path)
        validator = Validator()
        validator.preprocessors = [CheckCellMetadata]
        validator.stream = io.StringIO()
        validator.validate_and_print(str(path))
        return validator.stream.getvalue()

    def points(self) -> dict[str, dict[str, float | None]]:
        """What the gradebook has for each student and check; None waits for a person."""
        query = """
            SELECT submitted_assignment.student_id, base_cell.name, grade.auto_score
            FROM grade
            JOIN base_cell ON base_cell.id = grade.cell_id
            JOIN submitted_notebook ON submitted_notebook.id = grade.notebook_id
            JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id
        """
        points: dict[str, dict[str, float | None]] = {}
        database = sqlite3.connect(f"file:{self.directory}/gradebook.db?mode=ro", uri=True)
        try:
            for name, check, score in database.execute(query):
                points.setdefault(name, {})[check] = score
        finally:
            database.close()
        return points

    def failures(self, name: str) -> dict[str, str]:
        """What the failed checks told the student `name`, by check: the exception's name and message.

        Text on stderr counts too: nbgrader gives no points for a check that writes there.
        """
        return {
            str(nbgrader_of(cell)["grade_id"]): (
                f"{output.ename}: {output.evalue}" if output.output_type == "error" else output.text
            )
            for cell in self._autograded(name).cells
            if nbgrader_of(cell).get("grade") and cell.cell_type == "code"
            for output in cell.outputs
            if output.output_type == "error" or output.get("name") == "stderr"
        }

    def _autograded(self, name: str) -> NotebookNode:
        notebook = nbformat.read(self._notebook("autograded", name), as_version=4)
        for cell in notebook.cells:
            display.unseal(cell)
        return notebook

    def feedback(self, name: str) -> str:
        """The page that the student `name` gets back."""
        return self._notebook("feedback", name).with_suffix(".html").read_text()

    def _notebook(self, step: str, name: str = ".") -> Path:
        return self.directory / step / name / self.lab / f"{self.lab}.ipynb"


def mistaken(release: NotebookNode, right: dict[str, str], mistakes: dict[str, Mistake]) -> NotebookNode:
    """Hand in the solution with these mistakes in it."""
    answers = dict(right)
    for mistake in mistakes.values():
        answers[mistake.task] = mistake.applied_to(answers[mistake.task])
    return filled_in(release, answers)
