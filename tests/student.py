"""The stand-in for a student: an unprivileged user without capabilities, whoever runs the tests.

When the tests run as root, a `Student` is a user id that nobody else has, so that what is left of it can be
counted. The checkout and the Python environment may lie where only root can enter; in a mount namespace of
its own the student finds them at their usual paths. When the tests run as an ordinary user, that user is the
student.

As a script this file becomes the student and runs a command: ``python student.py UID HOME COMMAND...``
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cnlab.clock import wait_until
from cnlab.linux import syscalls

ROOT = Path(__file__).resolve().parents[1]
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
        self._others = frozenset() if self.is_stand_in else frozenset(self._processes_of_uid())
        return self

    def __exit__(self, *exc: object) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self.processes(), timeout_s=5, what="the student's processes to end")
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
        return [pid for pid in self._processes_of_uid() if pid not in self._others and pid != os.getpid()]

    def _processes_of_uid(self) -> list[int]:
        pids = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                status = Path("/proc", name, "status").read_text()
                uid = int(status.partition("\nUid:")[2].split()[0])
                if uid == self.uid and "\nState:\tZ" not in status:
                    pids.append(int(name))
        return pids

    def _command(self, argv: list[str]) -> list[str]:
        if not self.is_stand_in:
            return argv
        return [sys.executable, "-P", __file__, str(self.uid), str(self.home), *argv]


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
