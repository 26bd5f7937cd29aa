"""The tasks of a released notebook and their visible checks, as a student has them.

Interface: `read_tasks` takes a notebook as JSON has it; `choose` finds what a student means by
``check("start")``, ``check("Task 2")`` or ``check(2)``. Pure.

A task is a section of the notebook, from one heading to the next, that has a check.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnlab.errors import InvalidValue

_HEADING = re.compile(r"^#{1,3} +(.+?) *$", re.MULTILINE)
_POINTS = re.compile(r" *\(\d+ points?\)$")


@dataclass(frozen=True, slots=True)
class CheckCell:
    """A check that students see. `solutions` are the grade ids of the answers above it in its task."""

    index: int
    grade_id: str
    source: str
    points: float
    solutions: tuple[str, ...]

    @property
    def says(self) -> str:
        """What the comment at its top says."""
        lines = self.source.splitlines()
        comment = [line.strip() for line in lines if not line.strip() or line.strip().startswith("#")]
        top = comment[: next((n for n, line in enumerate(lines) if line.strip() not in comment), len(lines))]
        return " ".join(line.lstrip("# ") for line in top if not line.startswith("###")).strip()


@dataclass(frozen=True, slots=True)
class Solution:
    """An answer: its grade id, and the names that it defines."""

    grade_id: str
    source: str
    defines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """A section with checks."""

    title: str
    solutions: tuple[Solution, ...]
    checks: tuple[CheckCell, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a notebook asks: its tasks, the locked cells that checks rely on, by their places, and imports."""

    tasks: tuple[Task, ...]
    setup: tuple[tuple[int, str], ...]
    imports: str

    @property
    def modules(self) -> set[str]:
        """The modules that locked cells import."""
        nodes = [node for _, source in self.setup for node in _statements(source)]
        plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        return plain | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}

    @property
    def shadowed(self) -> list[str]:
        """The names of Python's own that a task is to define anew."""
        answers = [answer for task in self.tasks for answer in task.solutions]
        return sorted({name for answer in answers for name in answer.defines if hasattr(builtins, name)})


def read_tasks(notebook: Mapping[str, Any]) -> Sheet:
    """Read a notebook; what is not as nbgrader writes it is passed over."""
    tasks: list[Task] = []
    setup: list[tuple[int, str]] = []
    imports: list[str] = []
    title, solutions, checks = "", list[Solution](), list[CheckCell]()

    def end_section() -> None:
        if checks:
            tasks.append(Task(title, tuple(solutions), tuple(checks)))
        solutions.clear()
        checks.clear()

    for index, kind, source, claims in _cells(notebook):
        grade_id = str(claims.get("grade_id", ""))
        if kind == "markdown" and (heading := _HEADING.search(source)) and not claims.get("solution"):
            end_section()
            title = _POINTS.sub("", heading[1])
        elif kind != "code":
            continue
        elif claims.get("grade") and not claims.get("solution"):
            above = tuple(solution.grade_id for solution in solutions)
            checks.append(CheckCell(index, grade_id, source, float(claims.get("points") or 0), above))
        else:
            imports += [ast.unparse(node) for node in _statements(source) if _is_import(node)]
            if claims.get("solution"):
                solutions.append(Solution(grade_id, source, tuple(_defined(source))))
            elif claims.get("locked"):
                setup.append((index, source))
    end_section()
    return Sheet(tuple(tasks), tuple(setup), "\n".join(dict.fromkeys(imports)))


def choose(tasks: Sequence[Task], wanted: str | int) -> tuple[Task, ...]:
    """Return the tasks that are meant, each with those of its checks that are.

    Args:
        tasks: of one notebook.
        wanted: a grade id, the name of a function to write, a task's number or heading; all if it is empty.

    Raises:
        InvalidValue: nothing has that name; the message lists what has one.
    """
    if wanted == "":
        return tuple(tasks)
    number = re.fullmatch(r"(?:task *)?(\d+)", str(wanted).strip(), re.IGNORECASE)
    pattern = rf"task {number[1]}\b" if number else re.escape(str(wanted))
    for task in tasks:
        if re.match(pattern, task.title, re.IGNORECASE) or re.fullmatch(pattern, task.title, re.IGNORECASE):
            return (task,)
        if named := _named(task, str(wanted)):
            return (Task(task.title, task.solutions, named),)
    names = [name for task in tasks for solution in task.solutions for name in (solution.grade_id,)]
    close = difflib.get_close_matches(str(wanted), names, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(map(repr, names))}"
    raise InvalidValue(f"no task is called {wanted!r}; {hint}")


def is_as_run(answer: Solution, ran: Sequence[str]) -> bool:
    """Whether the last cell that was run to define what `answer` defines is that answer, to the letter."""
    names = set(answer.defines)
    last = next((source for source in reversed(ran) if names & set(_defined(source))), "")
    return answer.source in (ran if not names else [last])


def _named(task: Task, name: str) -> tuple[CheckCell, ...]:
    """Return the check of that grade id, or those that follow the answer of that name."""
    exact = tuple(check for check in task.checks if check.grade_id == name)
    if exact:
        return exact
    for solution in task.solutions:
        if name == solution.grade_id or name in solution.defines:
            latest = tuple(check for check in task.checks if check.solutions[-1:] == (solution.grade_id,))
            return latest or task.checks
    return ()


def _cells(notebook: Mapping[str, Any]) -> Iterator[tuple[int, str, str, Mapping[str, Any]]]:
    cells = notebook.get("cells")
    for index, cell in enumerate(cells if isinstance(cells, list) else ()):
        if isinstance(cell, dict):
            source = cell.get("source", "")
            metadata = cell.get("metadata")
            claims = metadata.get("nbgrader") if isinstance(metadata, dict) else None
            text = "".join(source) if isinstance(source, list) else str(source)
            yield index, str(cell.get("cell_type")), text, claims if isinstance(claims, dict) else {}


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError):
        return []


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _defined(source: str) -> Iterator[str]:
    for node in _statements(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
