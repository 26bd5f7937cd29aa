"""A place where a student's code runs and can do no harm."""

import contextlib
import os
import select
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

from cnlab.errors import MissingFeature
from cnlab.grading.limits import Event, Limits, Usage
from cnlab.linux import syscalls

Flavour = Literal["plain", "root"]
Reference = Mapping[str, Any]

HOME = "/home/student"
"""The working directory inside, with the submission's files."""


def parts(flavour: Flavour = "plain") -> dict[str, str]:
    """Return all parts of the sandbox by name, each with "" or why this host refuses it, found by trying."""
    return {}


def require_parts(accepted: Collection[str] = (), flavour: Flavour = "plain") -> tuple[str, ...]:
    """Go on only if this host has every part, or the instructor accepts that it is missing.

    Returns:
        The accepted parts that are indeed missing: `Sandbox` takes them as `accept`.

    Raises:
        MissingFeature: a part is missing and not accepted.
    """
    missing = {name: reason for name, reason in parts(flavour).items() if reason}
    refused = sorted(set(missing) - set(accepted))
    if refused:
        raise MissingFeature("sandbox", "; ".join(f"{name} ({missing[name]})" for name in refused))
    return tuple(sorted(missing))


class Student:
    """The student's first process. `pid` is its number where the caller is."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd  # readable when it has ended

    def signal(self, number: int) -> None:
        """Send it a signal; does nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            syscalls.pidfd_send_signal(self.pidfd, number)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for its end; say whether it has ended."""
        ended = select.poll()
        ended.register(self.pidfd, select.POLLIN)
        return bool(ended.poll(None if timeout_s is None else timeout_s * 1000))


class Sandbox:
    """One submission's sandbox: made by `start`, unmade with its ``with`` block.

    Use it in a process with one thread. It is entered once.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        flavour: Flavour = "plain",
        files: Mapping[str, bytes] | None = None,
        accept: Collection[str] = (),
    ) -> None:
        self.limits = limits or Limits()
        self.flavour = flavour
        self._files = dict(files or {})
        self._accept = frozenset(accept)
        self._student: Student | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, program: Callable[[], object], *, keep_fds: Sequence[int] = ()) -> Student:
        """Fork the student's process, which calls `program` in the sandbox and ends when it returns.

        Args:
            program: what to call; it finds itself in `HOME`, as the student.
            keep_fds: descriptors that stay open, under their numbers. All others are closed; 0, 1 and 2
                are ``/dev/null`` unless named here.
        """
        pid, pidfd = syscalls.clone3(0)
        if pid == 0:
            _live(program)
        self._student = Student(pid, pidfd)
        return self._student

    @property
    def reference(self) -> Reference:
        """Plain data with which a process of the same owner finds the sandbox; see `join`."""
        assert self._student is not None
        return {"flavour": self.flavour, "student": self._student.pid}

    def events(self) -> list[Event]:
        """Return what was refused or ended so far, and forget it."""
        return []

    def usage(self) -> Usage:
        """Return what was used so far; after `close`, in all."""
        return Usage()

    def close(self) -> None:
        """End every process in the sandbox, and return when nothing is left of it."""
        if self._student is not None:
            self._student.signal(signal.SIGKILL)
            os.waitid(os.P_PIDFD, self._student.pidfd, os.WEXITED)
            os.close(self._student.pidfd)
            self._student = None


def _live(program: Callable[[], object]) -> NoReturn:
    os.setsid()
    program()
    os._exit(0)


@contextlib.contextmanager
def born_inside(reference: Reference) -> Iterator[None]:
    """Let processes that the caller forks within the block be in the pid namespace of a root sandbox.

    For the plain flavour it does nothing: a tester stays where the student cannot see it.
    """
    yield


def join(reference: Reference) -> None:
    """Enter, for good, what a tester shares with the student: its files, its network, its host name, its ipc.

    The caller has one thread, and stays outside the student's user namespace: the student has no rights over
    it. Files it opens may be hostile; no directory that the student can write may be on `sys.path`.
    """
