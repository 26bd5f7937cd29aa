"""Check a task while you work on it: ``check("start")`` in a cell of the notebook.

Interface: `check` runs the visible checks of a task, or of all, and shows how they went. It takes the checks
from the notebook's file, which lies beside, and your functions as the kernel has them now, saved or not. What
a check calls runs in a copy of the kernel's process: see `instant`. Nothing hidden is on your machine: after
you hand in, the same checks run again with other inputs.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnlab.errors import CnlabError
from cnlab.grading.attempt.capture import Capture
from cnlab.grading.attempt.forkserver import ForkServer
from cnlab.grading.attempt.processes import Outcome, Snapshot
from cnlab.grading.attempt.scores import fault_of_score
from cnlab.grading.check.instant import LiveNotebook
from cnlab.grading.check.tasks import CheckCell, Sheet, Task, choose, is_as_run, read_tasks
from cnlab.grading.check.verdict import Card, State, TaskVerdict, Verdict
from cnlab.grading.job import Status

CHECK_S = 60.0
_OUTPUT_BYTES = 1 << 20
_FILE_BYTES = 50 << 20
_HIDDEN = "These are the checks that you can see. After you hand in, the same run again with other inputs."
_servers: list[ForkServer] = []


class NoNotebook(CnlabError):  # noqa: N818 - reads as the claim it makes
    """The file with the checks cannot be told; the message says where it was looked for."""


@dataclass
class _Cell:
    """A cell as a tester wants to know it."""

    index: int
    snapshot: Snapshot | None


def check(task: str | int = "", *, notebook: str | os.PathLike[str] = "") -> None:
    """Run the checks of a task and show how they went.

    Args:
        task: the name of the function that you write, the task's number, or the name of a check; all tasks
            if it is left out.
        notebook: the file, if there are several beside each other and it cannot be told which this is.
    """
    from IPython import display
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if not _is_somebody_there(shell):
        print("check() is for you while you work: here nobody is looking, and nothing was checked.")
        return
    show: Callable[..., Any] = display.display
    picture = show(Card((), left=1), display_id=True)
    try:
        for card in cards(shell, task, Path(notebook) if notebook else None):
            picture.update(card)
    except CnlabError as error:
        picture.update(Card((), (f"Nothing was checked: {error}", *getattr(error, "__notes__", ()))))


def cards(shell: Any, wanted: str | int, path: Path | None = None) -> Iterator[Card]:
    """Run checks in the notebook of `shell`, and yield how far it has come, at last the whole.

    Raises:
        NoNotebook: there is no file that has the checks.
        InvalidValue: no task is called `wanted`.
    """
    ran = [str(source) for source in shell.user_ns.get("In", ())]
    path = path or find_notebook(Path.cwd(), ran)
    sheet = read_tasks(_read(path))
    tasks = choose(sheet.tasks, wanted)
    notes = tuple(_notes(tasks, ran, path))
    left = sum(len(task.checks) for task in tasks)
    done: list[TaskVerdict] = []
    with LiveNotebook(_server(), shell, path.parent.absolute()) as live:
        runner = _Runner(live, sheet, path.parent)
        for task in tasks:
            verdicts: list[Verdict] = []
            for cell in task.checks:
                yield Card((*done, TaskVerdict(task.title, tuple(verdicts))), left=left)
                verdicts.append(runner.run(cell))
                left -= 1
            done.append(TaskVerdict(task.title, tuple(verdicts)))
    yield Card(tuple(done), notes)


class _Runner:
    """Runs checks against a live notebook, in a tester that has run the locked cells above them."""

    def __init__(self, live: LiveNotebook, sheet: Sheet, directory: Path) -> None:
        self._live = live
        self._sheet = sheet
        self._modules = _modules(sheet.modules, directory)
        self._is_set_up: list[int] = []

    def run(self, check: CheckCell) -> Verdict:
        """Run one check."""
        fault = self._set_up(check.index)
        capture = Capture(_OUTPUT_BYTES)
        outcome = fault or self._run(check.index, check.source, capture, shows_value=True)
        return _verdict(check, outcome, capture)

    def _set_up(self, before: int) -> Outcome | None:
        """Bring the tester to where the check stands; return what went wrong."""
        if not self._live.tester.is_open:
            self._is_set_up.clear()
            self._live.tester.open(self._sheet.imports, self._modules, self._sheet.shadowed)
        for index, source in self._sheet.setup:
            if index < before and index not in self._is_set_up:
                outcome = self._run(index, source, Capture(_OUTPUT_BYTES), shows_value=False)
                if outcome.status != "ok":
                    return Outcome(outcome.status, f"the locked cell {index + 1} failed: {outcome.message}")
                self._is_set_up.append(index)
        return None

    def _run(self, index: int, source: str, capture: Capture, *, shows_value: bool) -> Outcome:
        cell = _Cell(index, self._live.snapshot)
        deadline = time.monotonic() + CHECK_S
        return self._live.tester.run(
            cell, source, capture, deadline, shows_value=shows_value, is_locked=not shows_value
        )


def _verdict(check: CheckCell, outcome: Outcome, capture: Capture) -> Verdict:
    """Say in a student's words how a check went."""
    printed = "".join(output["text"] for output in capture.outputs if output["output_type"] == "stream")
    message = outcome.message
    for output in capture.outputs:
        if output["output_type"] == "error":
            message = f"{output['ename']}: {output['evalue']}".removesuffix(": ")
    if outcome.status == "ok":
        message = fault_of_score(capture.outputs, check.points)
    state, score = _scored(outcome.status, message, check.points, capture.outputs)
    return Verdict(check.grade_id, state, score, check.points, check.says, _advice(message, state), printed)


def _scored(
    status: Status, message: str, points: float, outputs: Sequence[Mapping[str, Any]]
) -> tuple[State, float]:
    if status != "ok" and "NotImplementedError" in message:
        return "open", 0.0
    if status != "ok" or message:
        return "failed", 0.0
    for output in outputs:
        if output["output_type"] == "execute_result":
            try:
                score = float(output["data"].get("text/plain", ""))
            except ValueError:
                continue
            return ("passed" if score >= points else "partly" if score else "failed"), score
    return "passed", points


def _advice(message: str, state: State) -> str:
    if state == "open":
        return ""
    absent = re.fullmatch(r"NameError: name '(\w+)' is not defined", message)
    return f"`{absent[1]}` is not there yet: run the cell that defines it first" if absent else message


def find_notebook(directory: Path, ran: Sequence[str]) -> Path:
    """Tell which of the notebooks in `directory` the kernel belongs to, by the cells that it `ran`.

    Raises:
        NoNotebook: there is none with checks, or more than one that it can be.
    """
    found = {path: _sources(path) for path in sorted(directory.glob("*.ipynb")) if _has_checks(path)}
    if not found:
        raise NoNotebook(
            f"no notebook with checks lies in {directory}, where this kernel runs: save it there, or say"
            " check(…, notebook=PATH)"
        )
    counts = {path: len(sources.intersection(ran)) for path, sources in found.items()}
    best = [path for path in found if counts[path] == max(counts.values())]
    if len(best) > 1:
        names = ", ".join(path.name for path in best)
        raise NoNotebook(f"this may be any of {names}: say which by check(…, notebook={best[0].name!r})")
    return best[0]


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _FILE_BYTES:
            raise ValueError("too large")
        notebook = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise NoNotebook(f"{path} cannot be read ({error}): save it") from None
    return notebook if isinstance(notebook, dict) else {}


def _has_checks(path: Path) -> bool:
    try:
        return bool(read_tasks(_read(path)).tasks)
    except CnlabError:
        return False


def _sources(path: Path) -> set[str]:
    cells = _read(path).get("cells")
    texts = [cell.get("source", "") for cell in cells or () if isinstance(cell, dict)]
    return {text if isinstance(text, str) else "".join(text) for text in texts} - {""}


def _notes(tasks: Sequence[Task], ran: Sequence[str], path: Path) -> Iterator[str]:
    """Say what the student should know beside the verdicts."""
    answers = [answer for task in tasks for answer in task.solutions]
    stale = [answer.defines or (answer.grade_id,) for answer in answers if not is_as_run(answer, ran)]
    if stale:
        names = ", ".join(f"`{name}`" for defined in stale for name in defined)
        yield f"{names}: what you have run is not what {path.name} holds. Run the cell; save the notebook."
    yield _HIDDEN


def _modules(names: Iterable[str], directory: Path) -> dict[str, str]:
    """Return the texts of those modules that lie beside the notebook: they came with it."""
    paths = {name: directory / f"{name}.py" for name in names}
    return {name: path.read_text() for name, path in paths.items() if path.is_file()}


def _server() -> ForkServer:
    """Return the warm process from which testers come; it ends with the kernel."""
    if not _servers:
        _servers.append(ForkServer(preload=()))
        atexit.register(_servers[0].close)
    return _servers[0]


def _is_somebody_there(shell: Any) -> bool:
    """Whether a person has run this cell: a program that runs a notebook takes no questions."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return False
    content: Mapping[str, Any] = kernel.get_parent("shell").get("content", {})
    return bool(content.get("allow_stdin"))
