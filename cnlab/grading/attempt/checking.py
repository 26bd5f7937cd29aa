"""One attempt at a submission: first all that the student wrote, then all checks.

First the student's and the locked cells run in the student's process, in order. Where checks stand, it
forks a snapshot that waits. Then nothing that a student sees is written any more, and the checks run in
the tester, each against a fresh fork of the snapshot at its place; what a check has started is ended with
it. The hidden parts of the checks run last, so that what they ask cannot come back in what others show.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cnlab.grading.attempt import hidden
from cnlab.grading.attempt.bindings import needs, stored_names
from cnlab.grading.attempt.capture import Capture
from cnlab.grading.attempt.processes import Outcome, Snapshot, StudentProcess, TesterProcess, World
from cnlab.grading.attempt.scores import fault_of_score, lost_of
from cnlab.grading.job import CellResult, Job, Role, Status

_BUSY = 0.25  # of the time; who was late and computed less may have waited for the machine


@dataclass
class Cell:
    """A code cell on its way. `outputs` are those for the notebook."""

    index: int
    role: Role
    grade_id: str
    source: str
    points: float | None = None
    status: Status = "ok"
    message: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    line: int = 0
    shown: int = 0
    outputs: list[dict[str, Any]] = field(default_factory=list)
    snapshot: Snapshot | None = None
    why_no_snapshot: str = ""
    is_lost: bool = False

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"the cell `{self.grade_id}`" if self.grade_id else f"cell {self.index + 1}"

    def doubt(self, refused: Collection[int | None]) -> str:
        """Say why it may have gone wrong by no fault of its own; nothing if it has not.

        `refused` are the cells that the sandbox refused something or ended.
        """
        if self.is_lost:
            return f"{self.name} waited in a process that had to be ended"
        if self.index in refused:
            return ""
        if self.status == "timeout" and self.cpu_s < busy_share() * self.wall_s:
            return f"{self.name} was late without being busy"
        if self.status == "died":
            return f"{self.name} lost its process and nothing says why"
        return ""

    @property
    def result(self) -> CellResult:
        """How it went."""
        return CellResult(
            self.index, self.grade_id, self.status, self.message, round(self.wall_s, 4), self.line, self.shown
        )

    def fail(self, status: Status, name: str, message: str, capture: Capture | None = None) -> None:
        """Note that it went wrong, as an error that nbgrader sees."""
        self.status, self.message = status, f"{name}: {message}".partition("\n")[0][:500]
        capture = capture or Capture(0)
        capture.fail(name, message)
        self.outputs += [output for output in capture.outputs if output not in self.outputs]

    def lose(self) -> None:
        """Note that it was not checked to its end, by the fault of another check."""
        self.is_lost = True
        self.fail(
            "died", "DeadKernelError", "not checked to its end: the process of the checks was ended before"
        )


class Attempt:
    """A job in one sandbox.

    Where it `is_careful`, a check whose tester had to be ended begins again in a new one. That takes another
    fork for each check, so the first attempt does without: it notes what was lost, and `Cell.doubt` tells.
    """

    def __init__(self, job: Job, cells: list[Cell], world: World, *, is_careful: bool = False) -> None:
        self._job = job
        self._cells = cells
        self._world = world
        self._is_careful = is_careful
        self._ends = self._ends_cpu_s = 0.0
        self._defined: set[str] = set()
        self._faults: dict[int, str] = {}  # of locked cells that failed in the tester

    def run(self) -> None:
        """Run all cells; how they went is in them afterwards."""
        self._wind_up()
        self._run_students(self._world.student)
        self._wind_up()
        checks = [cell for cell in self._cells if cell.role in ("setup", "test")]
        if any(cell.role == "test" for cell in checks):
            self._run_checks(checks)

    def _wind_up(self) -> None:
        """Give what follows the time of a notebook."""
        self._ends = time.monotonic() + self._world.limits.notebook_s
        self._ends_cpu_s = self._world.cpu_s + self._world.limits.cpu_s

    # The student's cells

    def _run_students(self, student: StudentProcess) -> None:
        snapshot: Snapshot | None = None
        for cell in self._cells:
            if cell.role in ("student", "setup"):
                self._run_student(student, cell)
                snapshot = None
            if cell.role == "test" or (cell.role == "setup" and self._asks(cell)):
                snapshot = snapshot or self._snapshot(student, cell)
                cell.snapshot = snapshot
                if snapshot is not None:
                    snapshot.uses += self._uses(cell)

    def _uses(self, cell: Cell) -> int:
        parts = hidden.parts_of(cell.source, self._job.hidden_marks)
        return 2 if cell.role == "setup" or parts.hidden else 1  # a new tester asks once more

    def _asks(self, cell: Cell) -> bool:
        """Whether a locked cell reads a name that no cell of the checks defines."""
        asks = needs(cell.source, self._defined | stored_names(self._job.imports))
        self._defined |= stored_names(cell.source)
        return asks

    def _snapshot(self, student: StudentProcess, cell: Cell) -> Snapshot | None:
        if student.gone:
            cell.why_no_snapshot = student.gone
            return None
        snapshot = student.snapshot()
        if snapshot is None:
            cell.why_no_snapshot = "the notebook's process could not be copied for the checks"
        return snapshot

    def _run_student(self, student: StudentProcess, cell: Cell) -> None:
        if student.gone:
            cell.fail("skipped", "DeadKernelError", f"not run: {student.gone}")
            return
        if not cell.source.strip() or self._is_late(cell):
            return
        with self._timed(cell) as deadline:
            capture = Capture(self._world.limits.output_bytes)
            outcome = student.run(cell.source, capture, deadline, cell.name)
            self._world.ask_steward("look")  # what it was refused is put down to it
        cell.outputs = capture.outputs
        cell.status, cell.line, cell.message = outcome.status, outcome.line, outcome.message

    def _is_late(self, cell: Cell) -> bool:
        """Say so at the cell if the whole notebook's time is over."""
        limits = self._world.limits
        if time.monotonic() >= self._ends:
            used = f"{limits.notebook_s:g} s"
        elif self._world.cpu_s >= self._ends_cpu_s:
            used = f"{limits.cpu_s:g} s of the processor"
        else:
            return False
        cell.fail("timeout", "CellTimeoutError", f"not run: the notebook had used its {used}")
        return True

    @contextlib.contextmanager
    def _timed(self, cell: Cell) -> Iterator[float]:
        begun, used_s = time.monotonic(), self._world.cpu_s
        self._world.now = cell.index
        try:
            yield min(begun + self._world.limits.cell_s, self._ends)
        finally:
            cell.wall_s += time.monotonic() - begun
            cell.cpu_s += self._world.cpu_s - used_s

    # The checks

    def _run_checks(self, checks: list[Cell]) -> None:
        self._world.settle()
        tester = self._world.tester
        tester.open(self._job.imports, self._job.modules, self._job.names)
        later: list[tuple[Cell, hidden.Parts]] = []
        done: list[Cell] = []
        for cell in checks:
            parts = hidden.Parts(cell.source)
            if cell.role == "test":
                parts = hidden.parts_of(cell.source, self._job.hidden_marks)
            well = self._run_check(
                tester, cell, parts.visible, done, keeps=parts.goes_on, ends=not parts.hidden
            )
            later += [(cell, parts)] if parts.hidden and well else []
            if cell.snapshot is not None:
                cell.snapshot.uses -= 1 if well else self._uses(cell)
            cell.shown = len(cell.outputs)
            done.append(cell)
        for cell, parts in later:
            resumes = parts.goes_on and tester.keeps(cell)
            is_lost = parts.goes_on and not resumes  # with the tester
            if is_lost and not self._is_careful:
                cell.lose()
                continue
            self._run_check(tester, cell, cell.source if is_lost else parts.hidden, done, resumes=resumes)
            if cell.snapshot is not None:
                cell.snapshot.uses -= 1

    def _run_check(
        self,
        tester: TesterProcess,
        cell: Cell,
        source: str,
        done: list[Cell],
        *,
        keeps: bool = False,
        resumes: bool = False,
        ends: bool = True,
    ) -> bool:
        """Run a check or a part of it; return whether all is well so far."""
        if not source.strip():
            return True
        if cell.role == "test" and cell.snapshot is None:
            cell.fail("skipped", "DeadKernelError", f"not checked: {cell.why_no_snapshot}")
            return False
        if self._is_late(cell):
            return False
        if not tester.is_open:
            above = [other for other in done if other.role == "setup" or other.index < cell.index]
            self._reopen(tester, above)
        capture = Capture(self._world.limits.output_bytes)
        with self._timed(cell) as deadline:
            outcome = tester.run(
                cell,
                source,
                capture,
                deadline,
                keeps=keeps,
                resumes=resumes,
                uses=2 if keeps and not self._is_careful else 1,
                shows_value=ends,
                is_locked=cell.role == "setup",
            )
        if cell.role == "setup":
            self._note_fault(tester, cell, outcome)
            return outcome.status == "ok"
        cell.outputs += capture.outputs
        cell.status, cell.line, cell.message = outcome.status, outcome.line, outcome.message
        if cell.status == "ok" and ends:
            cell.message = lost_of(cell.outputs)
            if fault := fault_of_score(cell.outputs, cell.points):
                cell.fail("failed", "ValueError", fault)
        if cell.status != "ok":  # nbgrader would take the number, if it came first
            cell.outputs = [out for out in cell.outputs if out["output_type"] != "execute_result"]
        return cell.status == "ok"

    def _reopen(self, tester: TesterProcess, done: list[Cell]) -> None:
        """Begin again with a new tester, which has run the locked cells so far."""
        while not tester.is_open:
            tester.open(self._job.imports, self._job.modules, self._job.names)
            for cell in done:
                self._redo(tester, cell)
                if not tester.is_open:
                    break  # the cell has a fault now: it is not run a third time

    def _redo(self, tester: TesterProcess, cell: Cell) -> None:
        if cell.role == "test":
            tester.own(cell.source, f"{cell.name} defines it, and its process had to be ended")
        elif cell.index in self._faults:
            tester.lose(cell.source, self._faults[cell.index])
        elif cell.source.strip():
            deadline = min(time.monotonic() + self._world.limits.cell_s, self._ends)
            outcome = tester.run(cell, cell.source, Capture(0), deadline, shows_value=False, is_locked=True)
            self._note_fault(tester, cell, outcome)

    def _note_fault(self, tester: TesterProcess, cell: Cell, outcome: Outcome) -> None:
        """If a locked cell has failed, what it was to define is absent: it is not the student's to say."""
        if outcome.status != "ok":
            self._faults[cell.index] = (
                f"{cell.name.replace('cell', 'locked cell', 1)} failed: {outcome.message}"
            )
            if tester.is_open:
                tester.lose(cell.source, self._faults[cell.index])


def busy_share(load: float | None = None) -> float:
    """Return the part of its time that a busy process computes at least, on a machine of this load."""
    load = os.getloadavg()[0] if load is None else load
    return _BUSY * min(1.0, (os.cpu_count() or 1) / max(load, 1.0))


def cells_of(notebook: Mapping[str, Any], roles: tuple[tuple[Role, str], ...]) -> list[Cell]:
    """Return the code cells of a notebook that are to run."""
    cells = []
    for index, (data, (role, grade_id)) in enumerate(zip(notebook["cells"], roles, strict=True)):
        if data["cell_type"] == "code":
            points = data["metadata"].get("nbgrader", {}).get("points")
            source = data["source"] if isinstance(data["source"], str) else "".join(data["source"])
            cells.append(Cell(index, role, grade_id, source, points))
    return cells
