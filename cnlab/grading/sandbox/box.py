"""A sandbox as its zygote holds it: begin, look, end."""

import contextlib
import itertools
import os
import select
import signal
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from cnlab.grading.limits import Event, Limits, Usage
from cnlab.grading.sandbox import birth, filesystem, groups, guard, messages
from cnlab.grading.sandbox.parts import Flavour, require_parts
from cnlab.grading.sandbox.plan import Plan
from cnlab.linux import syscalls
from cnlab.linux.processes import parse_stat

Reference = Mapping[str, Any]

_START_TIMEOUT_S, _ANSWER_TIMEOUT_S = 60.0, 5.0
_numbers = itertools.count()


class Student:
    """The student's first process: `pid` where the zygote is, and `pidfd`, which is readable at its end."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd

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

    Use it in a process with one thread, once. When that process is killed, the sandbox ends itself.

    Args:
        limits: what all processes in it may use.
        flavour: "plain" for a student without any rights; "root" for one who is root of namespaces of its
            own, inside a private kernel.
        files: the submission's files, by their names below `HOME`.
        accept: parts that the instructor does without where the host refuses them; see `require_parts`.

    Raises:
        InvalidValue: a name of a file leads elsewhere.
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
        self._files = {filesystem.check_name(name): content for name, content in (files or {}).items()}
        self._accept = frozenset(accept)
        self._missing: frozenset[str] = frozenset()
        self._group = groups.Group()
        self._first: tuple[int, int] | None = None  # pid, pidfd
        self._socket: socket.socket | None = None
        self._student: Student | None = None
        self._proc = -1
        self._counts_itself = False  # where no control group does
        self._init = 0  # process 1 of a root sandbox
        self._events: list[Event] = []
        self._usage = Usage()

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

        Raises:
            OSError: the kernel refused a part; nothing is left behind.
            MissingFeature: this host lacks a part that is not accepted.
        """
        is_root = self.flavour == "root"
        # the private kernel is our own, and what it has is known
        missing = self._accept if is_root else frozenset(require_parts(self._accept))
        self._counts_itself = bool(guard.COUNTED_BY_GROUPS & missing)
        name = f"{os.getpid()}-{next(_numbers)}"
        self._missing = missing
        self._group = groups.make(name, self.limits, missing, is_delegated=is_root, has_tester=not is_root)
        try:
            plan = Plan(self.limits, program, self._files, keep_fds, missing, self._group, self.flavour)
            pid, pidfd, self._socket = birth.begin(plan)
            self._first = pid, pidfd
            self._group.leave_procs()
            self._student = self._meet(self._socket)
        except BaseException:
            self.close()
            raise
        return self._student

    def _meet(self, first: socket.socket) -> Student:
        first.settimeout(_START_TIMEOUT_S)
        received = messages.receive(first)
        if received is None:
            raise ChildProcessError("the sandbox's first process ended before it began")
        message, fds = received
        messages.raise_failure(message)
        student, self._proc, *init = fds
        self._init = messages.pid_of(init[0]) if init else 0
        messages.close(init)
        return Student(messages.pid_of(student), student)

    @property
    def reference(self) -> Reference:
        """Plain data with which another process of the same owner finds the sandbox; see `join`."""
        assert self._first is not None, "the sandbox has not begun"
        assert self._student is not None
        return {
            "flavour": self.flavour,
            "first": self._first[0],
            "init": self._init,
            "student": self._student.pid,
            "tester_groups": [str(path) for path in self._group.testers],
            "tester_limits": groups.limits_of_tester(self.limits).to_dict(),
            "missing": sorted(self._missing),
        }

    def events(self) -> list[Event]:
        """Return what was refused or ended since the last time."""
        self._look()
        events, self._events = self._events, []
        return events

    def usage(self) -> Usage:
        """Return what was used so far; after `close`, in all."""
        if self._counts_itself:
            self._look()
        self._read_groups()
        return self._usage

    def processes(self) -> dict[int, int]:
        """Return the parent of each process but the first, by their numbers inside; none that has ended."""
        found = {}
        for pid in (name for name in os.listdir(self._proc) if name.isdigit() and name != "1"):
            with contextlib.suppress(OSError):  # it has ended
                fd = os.open(f"{pid}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
                try:
                    stat = parse_stat(os.read(fd, 4096).decode(errors="replace"))[1]
                finally:
                    os.close(fd)
                if stat[0] != "Z":
                    found[int(pid)] = int(stat[1])
        return found

    def end(self, pids: Iterable[int]) -> None:
        """Kill processes by their numbers inside; does nothing for those that have ended."""
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fd = os.open(str(int(pid)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)
                try:
                    syscalls.pidfd_send_signal(fd, signal.SIGKILL)
                finally:
                    os.close(fd)

    def close(self) -> None:
        """End every process in the sandbox, and return when nothing is left of it."""
        if self._first is not None:
            self._look()
            _, pidfd = self._first
            with contextlib.suppress(ProcessLookupError):
                syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)  # ends when all of its pid namespace have
            os.close(pidfd)
            self._first = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._student is not None:
            os.close(self._student.pidfd)
            os.close(self._proc)
            self._student = None
        self._read_groups()
        self._group.remove()
        self._group.close()

    def _look(self) -> None:
        """Let the first process look at once, and take in what it has told."""
        if self._socket is None or self._student is None:
            return
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        messages.send(self._socket, {"look": True})
        with contextlib.suppress(TimeoutError):
            while received := messages.receive(self._socket):
                message, fds = received
                messages.close(fds)
                if "event" in message:
                    self._events.append(Event(**message["event"]))
                if "looked" in message:
                    self._usage = Usage(**message["looked"])
                    break

    def _read_groups(self) -> None:
        reading = self._group.reading()
        self._usage = Usage(
            max(self._usage.cpu_s, reading.cpu_s),
            max(self._usage.memory_peak_bytes, reading.memory_peak_bytes),
        )
