"""What an attack is, and the submission it makes.

An attack is a function that is given a `Submission`, in which every answer is wrong, and does to it what a
clever student would. Its docstring says what it tries. Modules of this package whose attacks are to run need
no list: `known_attacks` finds them.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from grading.attacks.assignment import TASKS, Known
from nbformat import NotebookNode

from grading import attacks

PRELUDE = r'''
import ctypes, errno, gc, glob, os, re, signal, socket, struct, subprocess, sys, threading, time

def breach(*what):
    """Say that the attack succeeded; nothing else spells this word in capitals."""
    print("BRE" "ACH " + " ".join(map(str, what)), flush=True)

def search(data, where):
    """Say which secrets are in `data`, backwards: so only who has read one can write it."""
    data = data.encode(errors="replace") if isinstance(data, str) else bytes(data)
    for secret in set(re.findall(rb"canary-[a-z]+-[0-9a-f]{16}", data)):
        breach("read", secret[::-1].decode(), "in", where)

def look(path, size=1 << 22):
    """Search a file, or say nothing where that fails."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        search(os.read(fd, size), path)
    except OSError:
        pass
    finally:
        os.close(fd)

libc = ctypes.CDLL(None, use_errno=True)
'''


@dataclass
class Submission:
    """What a student hands in: a notebook, files beside it, and whatever else `place` puts there.

    `raw` is written instead of the notebook where it is not None.
    """

    notebook: NotebookNode
    known: Known
    files: dict[str, bytes] = field(default_factory=dict)
    raw: bytes | None = None
    place: Callable[[Path], None] = lambda directory: None
    _added: Counter[str] = field(default_factory=Counter)

    def cell(self, grade_id: str) -> NotebookNode:
        """The cell of that grade id."""
        return next(cell for cell in self.notebook.cells if grade_id_of(cell) == grade_id)

    def index(self, grade_id: str) -> int:
        """Where that cell stands."""
        return [grade_id_of(cell) for cell in self.notebook.cells].index(grade_id)

    @property
    def tasks(self) -> list[str]:
        """The tasks that the assignment asks."""
        asked = {grade_id_of(cell) for cell in self.notebook.cells}
        return [task for task in TASKS if task in asked]

    def answer(self, task: str, body: str, *, above: str = "") -> None:
        """Write the function of a task, or the value of one that asks for a value."""
        head = TASKS[task].head
        code = f"{head}\n{textwrap.indent(_dedent(body), '    ')}" if head else f"{task} = {_dedent(body)}"
        self.cell(task).source = f"{_dedent(above)}\n{code}".strip()

    def answer_all(self, body: str, *, value: str = "None", above: str = "") -> None:
        """Write the same into all functions, and the same value wherever one is asked for."""
        for task in self.tasks:
            self.answer(task, body if TASKS[task].head else value, above=above)

    def write_program(self, code: str) -> None:
        """Answer with a program, which the check starts by itself."""
        source = f"{PRELUDE}\n{_dedent(code)}"
        self.cell("program").source = (
            f"import shlex, sys\nsource = {source!r}\n"
            'program = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(source)}"'
        )

    def solve(self, *tasks: str) -> None:
        """Give the right answers."""
        for task in tasks:
            self.answer(task, TASKS[task].right)

    def run(self, code: str, *, after: str = "imports") -> None:
        """Add a cell of code of the student's own; several after the same cell keep their order."""
        if not self._added:
            self._added["imports"] += 1
            self._insert(PRELUDE, "imports")
        self._added[after] += 1
        self._insert(code, after)

    def _insert(self, code: str, after: str) -> None:
        cell = nbformat.v4.new_code_cell(_dedent(code))
        self.notebook.cells.insert(self.index(after) + self._added[after], cell)


@dataclass(frozen=True)
class Attack:
    """One attack, with what its success would be.

    `earns` names the tasks that it answers rightly, and for which an honest student would be paid as well;
    where `may_lose` is true, it may cost the attacker some of them.
    """

    name: str
    tries: str
    succeeds_if: str
    build: Callable[[Submission], None]
    earns: tuple[str, ...] = ()
    may_lose: bool = False

    @property
    def area(self) -> str:
        """The module it is of."""
        return self.build.__module__.rpartition(".")[2]

    def submission(self, release: NotebookNode, known: Known) -> Submission:
        """Return what the attacker hands in."""
        made = Submission(copy.deepcopy(release), known)
        made.answer_all("return None")
        made.solve(*self.earns)
        self.build(made)
        return made


Build = Callable[[Submission], None]


def attack(
    succeeds_if: str, *, earns: tuple[str, ...] = (), may_lose: bool = False
) -> Callable[[Build], Attack]:
    """Make an attack of a function; its name and docstring are the attack's."""

    def made(build: Build) -> Attack:
        tries = " ".join(str(build.__doc__).split())
        return Attack(build.__name__.replace("_", "-"), tries, succeeds_if, build, earns, may_lose)

    return made


def known_attacks() -> dict[str, Attack]:
    """All attacks of the modules of this package, by name."""
    found: dict[str, Attack] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(attacks.__path__)):
        if module.startswith("test_"):
            continue
        for value in vars(importlib.import_module(f"grading.attacks.{module}")).values():
            if isinstance(value, Attack):
                assert found.get(value.name, value) is value, f"two attacks are called {value.name}"
                found[value.name] = value
    return found


def grade_id_of(cell: NotebookNode) -> str:
    """The cell's grade id, or nothing."""
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


def _dedent(code: str) -> str:
    return textwrap.dedent(code).strip("\n")
