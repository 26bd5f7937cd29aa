"""The birth, life and end of one child process.

Interface: ``with start(program, …) as child:`` clones a child, lets the parent prepare it from outside (id
maps), lets it prepare itself (mounts, host name) and then executes the program. What goes wrong on the way is
raised in the parent as if it had happened there, and the child is gone. Leaving the block kills and reaps.

`namespaces.spawn` and `Cgroup.spawn` are the verbs built on this.

See: clone(2), pidfd_open(2), waitid(2); `newborn` for the child's side.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from cnlab.clock import wait_until
from cnlab.linux import newborn, nsfs, procfs, syscalls
from cnlab.linux.newborn import Program

_START_TIMEOUT_S = 5.0
_ATTEMPTS = 4


class Child:
    """A running child. `pid` is its number in the caller's pid namespace; `pidfd` means it and no other."""

    def __init__(
        self, pid: int, pidfd: int, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None

    def __repr__(self) -> str:
        return f"<Child pid={self.pid} returncode={self.returncode}>"

    @property
    def namespaces(self) -> dict[str, nsfs.Namespace]:
        """The namespaces it is in, by kind."""
        return nsfs.namespaces_of(self.pid)

    def signal(self, number: int) -> None:
        """Send it a signal; does nothing if it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                syscalls.pidfd_send_signal(self.pidfd, number)

    def poll(self) -> int | None:
        """Return the exit code, minus the signal's number if one ended it, or None if it still runs.

        Raises:
            ChildProcessError: some other code in this process has waited for it, and taken its exit code.
        """
        if self.returncode is None:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            if result is not None:
                self.returncode = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return what `poll` returns.

        Raises:
            TimeoutError: it still runs after `timeout_s`.
        """
        if self.returncode is None:
            ended = select.poll()
            ended.register(self.pidfd, select.POLLIN)
            if not ended.poll(None if timeout_s is None else timeout_s * 1000):
                raise TimeoutError(f"process {self.pid} still runs after {timeout_s:g} s")
        code = self.poll()
        assert code is not None, "a pidfd is readable when its process has ended"
        return code

    def _end(self) -> None:
        """Kill it and its process group, reap it, close what belongs to it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.signal(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            self.wait()
        os.close(self.pidfd)


@contextlib.contextmanager
def start(
    program: Program,
    *,
    flags: int = 0,
    cgroup: Path | None = None,
    in_parent: Callable[[int], None] | None = None,
    in_child: Callable[[], None] | None = None,
    fork_again: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    capture: bool = False,
) -> Iterator[Child]:
    """Start `program`: an argument vector to execute, or a function whose result is the exit code.

    The child leads a session and process group of its own, reads ``/dev/null``, has no signal handlers, and
    dies with the thread that started it. In a new pid namespace it is process 1, with nothing in between.
    A function has one thread only: it must not wait for others, such as those of numpy's linear algebra.

    Args:
        program: what to run.
        flags: ``CLONE_NEW…`` namespaces that the child is born in.
        cgroup: cgroup v2 directory that the child is born in.
        in_parent: called with the child's pid while the child waits.
        in_child: called in the child after that, before the program.
        fork_again: fork after `in_child`, since only its child is in a pid namespace that it entered.
        env: environment, by default the caller's.
        cwd: working directory, entered after `in_child`.
        capture: whether `Child.stdout` and `Child.stderr` are pipes, rather than the caller's own.

    Raises:
        OSError: the kernel refused the clone, the preparation or the execve.
    """
    for attempts_left in reversed(range(_ATTEMPTS)):
        with contextlib.ExitStack() as attempt:
            try:
                child = _start_once(
                    attempt, program, flags, cgroup, in_parent, in_child, fork_again, env, cwd, capture
                )
            except TimeoutError:
                # Its program has not begun, so nothing is done twice. A clone beside busy threads may have
                # copied a lock that one of them held.
                if not attempts_left:
                    raise
                continue
            started = attempt.pop_all()
        break
    with started:
        if not callable(program):
            _wait_for_its_name(child)
        yield child


def _start_once(
    stack: contextlib.ExitStack,
    program: Program,
    flags: int,
    cgroup: Path | None,
    in_parent: Callable[[int], None] | None,
    in_child: Callable[[], None] | None,
    fork_again: bool,
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    capture: bool,
) -> Child:
    """Clone, prepare and let go; what is to be undone at the child's end is on the `stack`."""
    ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
    pipes = [_open_pipe(stack) for _ in range(2)] if capture else []
    pid, pidfd = _clone(flags, cgroup)
    if pid == 0:
        ours.close()
        outputs = [write.fileno() for _, write in pipes]
        newborn.live(program, theirs, outputs, in_child=in_child, fork_again=fork_again, env=env, cwd=cwd)
    child = Child(pid, pidfd, *(read for read, _ in pipes))
    stack.callback(child._end)
    theirs.close()
    for _, write in pipes:
        write.close()
    if in_parent:
        in_parent(pid)
    _let_go(ours)
    return child


def complete(
    child: Child, argv: Sequence[str], *, timeout_s: float, check: bool
) -> subprocess.CompletedProcess[str]:
    """Read what a captured child says until it ends.

    Raises:
        subprocess.TimeoutExpired: it has not ended after `timeout_s`.
        subprocess.CalledProcessError: `check` is true and its exit code is not 0.
    """
    streams = [stream for stream in (child.stdout, child.stderr) if stream is not None]
    said = {stream.fileno(): bytearray() for stream in streams}
    deadline = time.monotonic() + timeout_s
    ready = select.poll()
    for fd in (child.pidfd, *said):
        ready.register(fd, select.POLLIN)
    has_ended = False
    while not has_ended and (left_s := deadline - time.monotonic()) > 0:
        has_ended = child.pidfd in dict(ready.poll(left_s * 1000))
        for fd, text in said.items():
            text += _read_available(fd)
    stdout, stderr = (bytes(text).decode(errors="replace") for text in said.values())
    if not has_ended:
        raise subprocess.TimeoutExpired(list(argv), timeout_s, stdout, stderr)
    completed = subprocess.CompletedProcess(list(argv), child.wait(), stdout, stderr)
    if check:
        completed.check_returncode()
    return completed


def _open_pipe(stack: contextlib.ExitStack) -> tuple[TextIO, BinaryIO]:
    read, write = os.pipe()
    os.set_blocking(read, True)
    return stack.enter_context(open(read, errors="replace")), stack.enter_context(
        open(write, "wb", buffering=0)
    )


def _read_available(fd: int) -> bytes:
    """Return what is in the pipe now; a descendant that keeps it open must not keep us waiting."""
    chunks = []
    is_readable = select.poll()
    is_readable.register(fd, select.POLLIN)
    while is_readable.poll(0) and (chunk := os.read(fd, 65536)):
        chunks.append(chunk)
    return b"".join(chunks)


def _clone(flags: int, cgroup: Path | None) -> tuple[int, int]:
    cgroup_fd = None if cgroup is None else os.open(cgroup, os.O_PATH | os.O_DIRECTORY)
    try:
        return syscalls.clone3(flags | syscalls.CLONE_CLEAR_SIGHAND, cgroup_fd=cgroup_fd)
    except PermissionError as error:
        if os.geteuid() != 0 and not flags & syscalls.CLONE_NEWUSER:
            error.add_note(
                "Hint: only root may do this without a user namespace of its own; add 'user' to new"
            )
        raise
    finally:
        if cgroup_fd is not None:
            os.close(cgroup_fd)


def _let_go(ours: socket.socket) -> None:
    """Tell the child to go on, and wait until its program runs or it has said why it cannot."""
    ours.settimeout(_START_TIMEOUT_S)
    ours.sendall(b"go")
    try:
        report = b"".join(iter(lambda: ours.recv(65536), b""))
    except TimeoutError:
        raise TimeoutError(
            f"the child has not started its program within {_START_TIMEOUT_S:g} s, {_ATTEMPTS} times; "
            "is its cgroup frozen?"
        ) from None
    if not report:
        return
    failure = json.loads(report)
    if failure["errno"]:
        raise OSError(failure["errno"], failure["reason"])
    raise ChildProcessError(failure["reason"])


def _wait_for_its_name(child: Child) -> None:
    """Wait the moment that execve(2) takes from closing the report to showing the arguments in /proc."""
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT  # who waits for it should still find its exit code
    with contextlib.suppress(ProcessLookupError):
        wait_until(
            lambda: os.waitid(os.P_PIDFD, child.pidfd, look) or procfs.read(child.pid, "cmdline"),
            timeout_s=_START_TIMEOUT_S,
            poll_s=0.001,
            what=f"process {child.pid} to show its arguments",
        )
