"""What runs in the tester's process: the instructor's cells, beside the notebook that they are about.

Interface: `live` serves the worker at a socket: ``prepare`` takes the instructor's imports and modules,
``cell`` runs one cell against a student's process that is reached over a socket which comes along. No
student's code ever runs here. A name that the cells use and none of them defines is asked of that
process: see `Names`. ``own`` says which names a cell defines that does not run here again, ``lose`` that a
locked cell has failed.

The parts of a check that students do not see run later, when all parts that they see have run: ``cell``
with ``keep`` remembers the names and the student's process as they are then, ``resume`` goes on from
there.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from cnlab.grading import notebook as words
from cnlab.grading.attempt.bindings import EVERYTHING, bound_names, read_names
from cnlab.grading.attempt.channel import Channel
from cnlab.grading.attempt.proxies import Notebook
from cnlab.grading.attempt.student import open_channel, output_message, print_to

_MARGIN_S = 1.0  # who asks the notebook hears that it is late before the cell's own time is up


class Names(dict[str, Any]):
    """The builtins of the checks' cells; what is neither there nor defined is asked of the notebook.

    A function finds this where it looks for builtins, so what cells define comes first, and Python's own
    builtins come before the student's. The names in `asked` are those of builtins that a task is to define.

    What a cell of the course's defines is never asked of the student, also where that cell has failed: `own`
    has those names, with why they may be absent. `fault` is the last such absence.
    """

    def __init__(self, asked: Iterable[str] = ()) -> None:
        super().__init__(vars(builtins))
        self.notebook: Notebook | None = None
        self.own: dict[str, str] = {}
        self.fault = ""
        for name in asked:
            self.pop(name, None)

    def __missing__(self, name: str) -> Any:
        if name in self.own or EVERYTHING in self.own:
            why = self.own.get(name) or self.own.get(EVERYTHING, "")
            text = f"name {name!r} is not defined" + (f": {why}" if why else "")
            self.fault = text if why else self.fault
            raise NameError(text, name=name)
        if self.notebook is not None:
            with contextlib.suppress(NameError):
                return self.notebook.get(name)
        return vars(builtins)[name]


class Modules:
    """Finds the instructor's own modules, which lie beside the notebook, by their text."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find a module, as ``sys.meta_path`` asks."""
        return ModuleSpec(name, self) if name in self._sources else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run its text."""
        exec(compile(self._sources[module.__name__], f"{module.__name__}.py", "exec"), module.__dict__)


class Tester:
    """Serves the worker; one for each submission."""

    def __init__(self, channel: Channel, shell: Any) -> None:
        self._channel = channel
        self._shell = shell
        self._names = Names()
        self._classes: dict[str, type] = {}  # those of locked cells
        self._kept: dict[int, tuple[dict[str, Any], dict[str, str], Notebook]] = {}

    def serve(self) -> None:
        """Answer until the worker is gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                request = self._channel.receive()
                self._channel.send(getattr(self, f"_op_{request['op']}")(request))

    def _op_prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        sys.meta_path.append(Modules(request["modules"]))
        self._names = Names(request["names"])
        self._shell.user_ns["__builtins__"] = self._names
        self._pass_on_seeds()
        for statement in ast.parse(request["imports"]).body:
            why = ""
            try:
                exec(compile(ast.Module([statement], []), "imports", "exec"), self._shell.user_ns)
            except (
                Exception
            ) as error:  # only the student's cells need that module, or it is a NameError later
                why = f"the checks cannot import it: {error}"
            names = bound_names(ast.unparse(statement)) - {EVERYTHING}
            self._names.own.update(dict.fromkeys(names, why))
        return {}

    def _pass_on_seeds(self) -> None:
        """Let a seed that a check sets hold in the notebook too, as where both are one process."""
        for name in ("random", "numpy.random"):
            if (module := sys.modules.get(name)) is not None:
                module.seed = functools.partial(self._seed, name, module.seed)  # type: ignore[attr-defined]

    def _seed(self, module: str, seed: Callable[..., None], *arguments: object, **options: object) -> None:
        seed(*arguments, **options)
        if self._names.notebook is not None:
            seeds = self._names.notebook.seeds
            seeds[:] = [other for other in seeds if other[0] != module] + [(module, arguments, options)]

    def _op_own(self, request: dict[str, Any]) -> dict[str, Any]:
        for name in bound_names(self._shell.transform_cell(request["source"])):
            self._names.own.setdefault(name, request["why"])
        return {}

    def _op_lose(self, request: dict[str, Any]) -> dict[str, Any]:
        """Forget what a locked cell that failed was to make, and the data that it may have left half made."""
        source, names = self._shell.transform_cell(request["source"]), self._shell.user_ns
        data = {
            name for name in read_names(source) & names.keys()
            if not callable(names[name]) and not isinstance(names[name], ModuleType)
        }  # fmt: skip
        for name in bound_names(source) | data:
            names.pop(name, None)
            self._classes.pop(name, None)
            self._names.own[name] = request["why"]
        return {}

    def _op_cell(self, request: dict[str, Any]) -> dict[str, Any]:
        fds = self._channel.take_fds()
        given = self._shell.user_ns
        notebook = None
        if fds:
            end = Channel(socket.socket(fileno=fds[0]))
            shared = bool(request.get("is_shared"))
            classes = given if request["is_locked"] else self._classes
            notebook = Notebook(end, given=classes, pid=request["pid"], is_shared=shared)
        answer = self._run(request, notebook)
        self._op_own(request | {"why": ""})
        if request["is_locked"] and answer["done"] is None:
            own = {name: kind for name, kind in given.items() if isinstance(kind, type)}
            self._classes |= {name: kind for name, kind in own.items() if kind.__module__ == "__main__"}
        if request.get("keep") and answer["done"] is None and notebook is not None:
            self._kept[request["keep"]] = (dict(given), dict(self._names.own), notebook)
        elif notebook is not None:
            notebook.channel.close()
        return answer

    def _op_resume(self, request: dict[str, Any]) -> dict[str, Any]:
        names, own, notebook = self._kept.pop(request["keep"])
        self._names.own = own
        notebook.is_shared = notebook.is_shared and bool(request["is_shared"])
        self._shell.user_ns.clear()
        self._shell.user_ns.update(names)
        answer = self._run(request, notebook)
        notebook.channel.close()
        return answer

    def _run(self, request: dict[str, Any], notebook: Notebook | None) -> dict[str, Any]:
        self._shell.publish = self._publish
        self._names.notebook = notebook
        self._names.fault = ""
        _tell_words(notebook.pid if notebook is not None else 0)
        if notebook is not None:
            notebook.deadline = time.monotonic() + max(request["seconds"] - _MARGIN_S, request["seconds"] / 2)
        try:
            shows = not request["is_locked"]  # what a locked cell shows, the student's process has shown
            error = self._shell.run(request["source"], shows_value=request["shows_value"], shows=shows)
        finally:
            self._names.notebook = None
        answer: dict[str, Any] = {"done": error.to_json() if error else None, "fault": self._names.fault}
        if notebook is None:
            return answer | {"doing": "", "pid": 0, "is_late": False}
        fault = notebook.fault or self._names.fault
        told = {"doing": notebook.doing, "pid": notebook.pid, "is_late": notebook.is_late}
        return answer | told | {"fault": fault}

    def _publish(self, output: dict[str, Any]) -> None:
        sys.stdout.flush()
        self._channel.send(output_message(output))
        self._channel.receive()


def _tell_words(pid: int) -> None:
    """Say whose world it is that the words of `cnlab.grading.notebook` act in."""
    words.pid = pid


def live(shell: Any, end: int, output: int, environment: Mapping[str, str], paths: Sequence[str]) -> None:
    """Be the tester of a submission: serve at the socket `end`, print to `output`, errors too.

    `paths` are directories that the student's code may write: nothing is imported from there.
    """
    os.environ.clear()
    os.environ.update(environment)
    print_to(output, output)
    os.close(output)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path[:] = [path for path in sys.path if path and path not in paths]
    Tester(open_channel(end), shell).serve()
