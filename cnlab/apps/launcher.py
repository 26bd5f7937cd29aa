"""Start instances of services: here as processes of this machine.

Interface: ``launcher.start(instance, environment)`` returns a `Running` at once, ``running.wait_ready()``
waits until it serves. `cnlab.apps.containers` starts the same programs in containers; a cluster could, too.

A process ends with the one that started it, also if that is killed, and leaves no file behind: compiled
programs and logs have no name in any directory.

See: `spawner`; memfd_create(2).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from cnlab.apps import languages
from cnlab.apps.application import Instance, Language, Program
from cnlab.apps.spawner import Spawner
from cnlab.clock import wait_until
from cnlab.errors import CnlabError

_KEPT_LOG = 1 << 20


class NotStarted(CnlabError):  # noqa: N818 - reads as the claim it makes
    """A service did not come up; the message is what it said last."""


class Running(Protocol):
    """An instance that was started."""

    name: str
    pid: int
    address: str  # where it serves, "host:port"
    language: Language  # of the program that really runs
    note: str  # why another program runs than the application says, or ""

    @property
    def log(self) -> str:
        """What it has said so far."""

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        """Return as soon as it serves; raise `NotStarted` if it does not."""

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask it to finish the requests in flight and end; kill it if it has not within `timeout_s`."""

    def kill(self) -> None:
        """End it at once, whatever it is doing."""


class Launcher(Protocol):
    """Something that can run instances."""

    def start(self, instance: Instance, environment: Mapping[str, str]) -> Running:
        """Start an instance with the variables that `Instance.environment` has made for it."""

    def close(self) -> None:
        """End all that was started here."""


class RunningProcess:
    """An instance that is a process of this machine."""

    def __init__(
        self, instance: Instance, address: str, process: subprocess.Popen[bytes], log: BinaryIO, note: str
    ) -> None:
        self.name = instance.name
        self.address = address
        self.pid = process.pid
        self.note = note
        self.language: Language = "Python" if note else instance.service.program.language
        self._process = process
        self._log = log
        self._last_words = ""

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.is_running else "ended"
        return f"<{self.name} at {self.address}, {self.language}, {state}>"

    @property
    def log(self) -> str:
        """What it has said so far, up to a mebibyte."""
        if self._log.closed:
            return self._last_words
        return os.pread(self._log.fileno(), _KEPT_LOG, 0).decode(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """How it ended: 0 by itself, -9 by SIGKILL; None as long as it runs."""
        return self._process.poll()

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        """Return as soon as it says that it serves.

        Raises:
            NotStarted: it ended before, or said nothing within `timeout_s`.
        """
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self._serves() or not self.is_running, timeout_s=timeout_s)
        if not self._serves() or not self.is_running:
            raise not_started(self.name, self.address, self.log)

    def _serves(self) -> bool:
        return f" serves {self.address}\n" in self.log

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask it to finish the requests in flight and end; kill it if it has not within `timeout_s`."""
        if self.is_running:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self.is_running:
            self._process.kill()
        self._process.wait()
        self._last_words = self.log
        self._log.close()


def not_started(name: str, address: str, log: str) -> NotStarted:
    """Return the error for an instance that does not serve, with what it said last."""
    said = (log.strip().splitlines() or [f"{name}: no sign of life at {address}"])[-1]
    error = NotStarted(said if said.startswith(name.rpartition("-")[0]) else f"{name}: {said}")
    if "in use" in said:
        error.add_note(f"Hint: `ss -ltnp 'src {address}'` shows who has it; end that, or choose another")
    return error


class ProcessLauncher:
    """Runs instances as processes; a ``with`` block ends them all.

    Args:
        enter: a command that goes before theirs, such as ``nsenter --target 42 --net``.
    """

    def __init__(self, *, enter: Sequence[str] = ()) -> None:
        self._enter = list(enter)
        self._started: list[RunningProcess] = []
        self._compiled: dict[Path, int] = {}
        self._troubles: dict[Language, str] = {}
        self._lock = threading.Lock()
        self._spawner = Spawner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self, instance: Instance, environment: Mapping[str, str]) -> RunningProcess:
        """Start an instance and return at once; its Python twin, where a language is missing.

        Raises:
            NotCompiled: its source has an error.
            MissingFeature: there is no setpriv(1) here.
        """
        with self._lock:  # one at a time: the second instance of a C program waits for the first's compiler
            program, note = languages.choose(instance.service.program, self._troubles)
            command, descriptors = self._command(program)
            variables = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"}
            with contextlib.ExitStack() as stack:
                log = stack.enter_context(tempfile.TemporaryFile())
                process = self._spawner.start(
                    [*self._enter, *command],
                    log=log,
                    env=variables | languages.libraries(Path(command[0])) | dict(environment),
                    cwd=Path("/"),
                    descriptors=descriptors,
                )
                stack.pop_all()  # it is closed when the process has ended
            running = RunningProcess(instance, environment["LISTEN"], process, log, note)
            self._started.append(running)
        return running

    @property
    def started(self) -> tuple[RunningProcess, ...]:
        """All that was started here since it was closed last."""
        return tuple(self._started)

    def close(self) -> None:
        """End all that was started here, politely and all at once."""
        with self._lock:
            started, self._started = self._started, []
            for running in started:
                if running.is_running:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(running.pid, signal.SIGTERM)
            for running in started:
                running.stop()
            for descriptor in self._compiled.values():
                os.close(descriptor)
            self._compiled.clear()
            self._spawner.close()

    def _command(self, program: Program) -> tuple[list[str], tuple[int, ...]]:
        """Return how to run a program, and the descriptors that it needs for that."""
        if program.language == "C":
            if program.source not in self._compiled:
                self._compiled[program.source] = languages.compile_to_memory(program.source)
            descriptor = self._compiled[program.source]
            return [f"/proc/self/fd/{descriptor}"], (descriptor,)
        return languages.interpreter(program), ()
