"""The assignment that is attacked: small tasks whose points tell them apart, and secrets to be stolen.

A secret is a word that is nowhere else, new in each run. What a student's function is called with in a
hidden check it may know, but nobody may see it afterwards: those words are the `inputs`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

NAME = "hw"
"""What assignment and notebook are called."""


@dataclass(frozen=True)
class Task:
    """A task: head of its function, or none if a value is asked for; right answer; check; points."""

    head: str
    right: str
    visible: str
    hidden: str
    points: int


TASKS = {
    "mean": Task(
        "def mean(values):",
        "return sum(values) / len(values)",
        'assert is_close(mean([1, 2, 6]), 3), f"expected 3, got {mean([1, 2, 6])!r}; look at sum()"',
        'assert is_close(mean([4.5]), 4.5), "SECRET"',
        1,
    ),
    "shout": Task(
        "def shout(text):",
        'return text.upper() + "!"',
        'got = shout("a")\nassert got == "A!", f"expected A!, got {got!r}; look at str.upper"',
        'assert shout("INPUT") == "INPUT".upper() + "!", f"SECRET {shout(\'INPUT\')}"',
        2,
    ),
    "invert": Task(
        "def invert(matrix):",
        "return np.linalg.inv(matrix)",
        "turn = np.array([[0.0, -1.0], [1.0, 0.0]])\n"
        'assert np.allclose(invert(turn), -turn), "expected the inverse; look at numpy.linalg"',
        'scale = np.diag([2.0, 4.0, 8.0])\nassert np.allclose(invert(scale) @ scale, np.eye(3)), "SECRET"',
        4,
    ),
    "refuse": Task(
        "def refuse(text):",
        'if not text:\n    raise ValueError("empty")\nreturn text',
        'try:\n    refuse("")\nexcept ValueError as error:\n    assert str(error) == "empty"\n'
        'else:\n    raise AssertionError("expected a ValueError, got none; look at raise")',
        'assert refuse("INPUT") == "INPUT", "SECRET"',
        8,
    ),
    "square": Task(
        "def square(number):",
        "return number * number",
        'assert all(map(lambda n: square(n) == n * n, [2, 3, -4])), "expected squares; look at *"',
        'assert all(map(lambda n: square(n) == n * n, range(5, 50))), "SECRET"',
        16,
    ),
    "answer": Task(
        "",
        "42",
        'assert answer == 42, f"expected 42, got {answer!r}; look it up"\nassert isinstance(answer, int)',
        'assert answer + 1 == 43, "SECRET"',
        32,
    ),
    "program": Task(
        "",
        "'echo $((6 * 7))'",
        'done = subprocess.run(["sh", "-c", program], capture_output=True, text=True)\n'
        "got = (done.stdout + done.stderr)[-5000:]\n"
        'assert got == "42\\n", f"expected 42, got {got}; look at sh(1)"',
        'again = subprocess.run(["sh", "-c", program], capture_output=True, text=True)\n'
        'assert again.stdout == "42\\n", "SECRET"',
        128,
    ),
    "estimate": Task(
        "def estimate():",
        "return 3.25",
        "",
        "round(64 * (1 - abs(estimate() - 3.25)), 1)  # SECRET",
        64,
    ),
}
"""By grade id; the check of task `mean` is the cell ``check-mean``. The last gives parts of its points."""

SMALL = ("mean", "shout", "answer", "program")
"""What is asked in the private kernel."""

IMPORTS = '''\
import subprocess

import numpy as np

def is_close(number, expected):
    """Whether two numbers are equal but for rounding."""
    return abs(number - expected) < 1e-9
'''


@dataclass(frozen=True)
class Known:
    """What the attacker knows or guesses: the instructor's paths. And what is planted there, to be found."""

    home: Path
    course: Path
    secrets: dict[str, str]

    @property
    def gradebook(self) -> Path:
        """nbgrader's database."""
        return self.course / "gradebook.db"

    @property
    def inputs(self) -> str:
        """What hidden checks call functions with."""
        return self.secrets["input"]


PLACES = ("hidden", "gradebook", "home", "environment", "command", "other", "channel", "socket", "memory")


def new_secrets() -> dict[str, str]:
    """A word for each place that is to be kept from students."""
    found = {place: f"canary-{place}-{secrets.token_hex(8)}" for place in PLACES}
    return found | {"input": f"kanari-{secrets.token_hex(8)}"}


def source_notebook(words: dict[str, str], *, kernel: str = "python3") -> NotebookNode:
    """The assignment with solutions and hidden tests, as an instructor writes it.

    For the private kernel it has only tasks that do without numpy, whose import takes long there.
    """
    is_small = kernel != "python3"
    imports = IMPORTS.replace("import numpy as np\n\n", "") if is_small else IMPORTS
    cells = [
        _locked(nbformat.v4.new_markdown_cell("# Homework\n\nAnswer each question."), "heading"),
        _locked(nbformat.v4.new_code_cell(imports), "imports"),
    ]
    for name, task in TASKS.items():
        if is_small and name not in SMALL:
            continue
        cells += [_solution(name, task), _check(name, task, words)]
    essay = nbformat.v4.new_markdown_cell("Because.")
    essay.metadata["nbgrader"] = _metadata("essay", grade=True, solution=True, points=100)
    notebook = nbformat.v4.new_notebook(cells=[*cells, essay])
    notebook.metadata["kernelspec"] = {"name": kernel, "language": "python", "display_name": "Python 3"}
    return notebook


def _solution(name: str, task: Task) -> NotebookNode:
    lines = f"### BEGIN SOLUTION\n{task.right if task.head else f'{name} = {task.right}'}\n### END SOLUTION"
    code = f"{task.head}\n    " + lines.replace("\n", "\n    ") if task.head else lines
    cell = nbformat.v4.new_code_cell(code)
    cell.metadata["nbgrader"] = _metadata(name, solution=True)
    return cell


def _check(name: str, task: Task, words: dict[str, str]) -> NotebookNode:
    hidden = task.hidden.replace("SECRET", words["hidden"]).replace("INPUT", words["input"])
    code = f"{task.visible}\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS"
    cell = nbformat.v4.new_code_cell(code.lstrip("\n"))
    cell.metadata["nbgrader"] = _metadata(f"check-{name}", grade=True, locked=True, points=task.points)
    return cell


def _locked(cell: NotebookNode, grade_id: str) -> NotebookNode:
    cell.metadata["nbgrader"] = _metadata(grade_id, locked=True)
    return cell


def _metadata(
    grade_id: str,
    *,
    grade: bool = False,
    solution: bool = False,
    locked: bool = False,
    points: int | None = None,
) -> dict[str, object]:
    made: dict[str, object] = {
        "schema_version": 3, "grade_id": grade_id, "grade": grade, "solution": solution, "locked": locked,
        "task": False,
    }  # fmt: skip
    return made if points is None else made | {"points": points}
