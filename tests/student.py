"""The stand-in for a student: an unprivileged user without capabilities, whoever runs the tests.

When the tests run as root, a `Student` is a user id that nobody else has, so that what is left of it can be
counted. The checkout and the Python environment may lie where only root can enter; in a mount namespace of
its own the student finds them at their usual paths. When the tests run as an ordinary user, that user is the
student, and of the user's processes only those that come from this one are the student's.

As a script this file becomes the student and runs a command: ``python student.py UID HOME COMMAND...``
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from cnlab.clock import wait_until
from cnlab.linux import procfs, syscalls
from cnlab.linux.processes import parse_status

ROOT = Path(__file__).resolve().parents[1]
PR_GET_CHILD_SUBREAPER = 37
_FIRST_UID = 20_000
_taken = 0


class Student:
    """A user with an empty home; as a context manager, gone afterwards with all processes and files."""

    python = sys.executable

    def __enter__(self) -> Student:
        global _taken
        self.is_stand_in = os.geteuid() == 0
        self.uid = os.geteuid()
        if self.is_stand_in:
            self.uid, _taken = _FIRST_UID + os.getpid() % 20_000 + 20_000 * _taken, _taken + 1
        self.home = Path(tempfile.mkdtemp(prefix="cnlab-student-"))
        (self.home / "tmp").mkdir()
        for path in (self.home, self.home / "tmp"):
            os.chown(path, self.uid, self.uid if self.is_stand_in else -1)
        self._was_subreaper = is_subreaper()
        if not self.is_stand_in:  # else an orphan of ours would be init's child, like any other of the user's
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        self._others = frozenset(process.pid for process in self._all_processes())
        return self

    def __exit__(self, *exc: object) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self.processes(), timeout_s=30, what="the student's processes to end")
        if not self.is_stand_in:
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, int(self._was_subreaper))
            self._reap()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """A fresh login's environment."""
        return {
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "PATH": os.pathsep.join((os.path.dirname(self.python), "/usr/bin", "/bin")),
            "LANG": "C.UTF-8",
            "CNLAB_MACHINE": "uml",
        }

    def popen(
        self, argv: list[str], *, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a command as the student, at home; `env` is added to a fresh login's environment."""
        options.setdefault("cwd", self.home)
        return subprocess.Popen(self._command(argv), env=self.environment | (env or {}), **options)

    def run(
        self, argv: list[str], *, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the student to its end and capture its output as text."""
        settings: dict[str, Any] = {"cwd": self.home, "capture_output": True, "text": True, "check": True}
        return subprocess.run(self._command(argv), env=self.environment | (env or {}), **settings | options)

    def become(self) -> None:
        """Turn this very process into the student; there is no way back."""
        if self.is_stand_in:
            become(self.uid, self.home)
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.home)

    def processes(self) -> list[int]:
        """The pids of what runs as the student now."""
        found = self._all_processes()
        return [process.pid for process in found if process.pid not in self._others and not process.is_zombie]

    def _all_processes(self) -> list[Process]:
        """What has the student's user id, or comes from us where that is our own; zombies are among them."""
        if self.is_stand_in:
            return [process for process in all_processes() if process.uid == self.uid]
        return descendants(os.getpid())

    def _reap(self) -> None:
        """Take the orphans that have become our children, so that no test sees their zombies."""
        for process in self._all_processes():
            if process.is_zombie and process.ppid == os.getpid() and process.pid not in self._others:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)

    def _command(self, argv: list[str]) -> list[str]:
        if not self.is_stand_in:
            return argv
        return [sys.executable, "-P", __file__, str(self.uid), str(self.home), *argv]


class Process(NamedTuple):
    """What tells whose a process is."""

    pid: int
    ppid: int
    uid: int
    is_zombie: bool


def all_processes() -> list[Process]:
    """All processes that we see; those that end meanwhile are left out."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(ProcessLookupError):
            status = parse_status(procfs.read(pid, "status"))
            uid = int(status["Uid"].split()[0])
            found.append(Process(int(pid), int(status["PPid"]), uid, status["State"].startswith("Z")))
    return found


def descendants(pid: int) -> list[Process]:
    """All processes that come from `pid`."""
    everyone, found, parents = all_processes(), list[Process](), {pid}
    while parents:
        children = [process for process in everyone if process.ppid in parents]
        found += children
        parents = {process.pid for process in children}
    return found


def is_subreaper() -> bool:
    """Whether orphans that come from us become our children; see PR_GET_CHILD_SUBREAPER in prctl(2)."""
    answer = ctypes.c_int()
    syscalls.prctl(PR_GET_CHILD_SUBREAPER, ctypes.addressof(answer))
    return bool(answer.value)


def become(uid: int, home: Path) -> None:
    """Drop to `uid`, without capabilities and for good, where the checkout and this Python can be reached."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    open_up([Path(sys.prefix), Path(sys.base_prefix), ROOT, home])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    syscalls.set_no_new_privs()
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # as after an execve: /proc/PID belongs to the student too


def open_up(needed: list[Path]) -> None:
    """Put a tmpfs over each directory that others cannot enter, with only what is needed in it."""
    barred = {bar: [] for path in needed if (bar := _first_barred(path)) is not None}
    for path in needed:
        if (bar := _first_barred(path)) is not None:
            barred[bar].append((path, os.open(path, os.O_PATH)))
    for directory, contents in barred.items():
        syscalls.mount("tmpfs", directory, "tmpfs", data="mode=755")
        for path, held in sorted(contents):
            path.mkdir(parents=True, exist_ok=True)
            syscalls.mount(f"/proc/self/fd/{held}", path, flags=syscalls.MS_BIND | syscalls.MS_REC)
            os.close(held)


def _first_barred(path: Path) -> Path | None:
    above = [*reversed(path.resolve().parents)]
    return next((directory for directory in above if not directory.stat().st_mode & stat.S_IXOTH), None)


if __name__ == "__main__":
    become(int(sys.argv[1]), Path(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])
