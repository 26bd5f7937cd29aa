"""Waiting for processes of containers.

See: waitid(2), pidfd_open(2).
"""

from __future__ import annotations

import os
import select

from cnlab.containers.runtime.signals import SIGKILL, pidfd_send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class Process:
    """A child of ours in a container. As a context manager, killed and reaped with the block.

    Attributes:
        pid: its number in the caller's pid namespace.
        pidfd: a descriptor that means it and no other.
        returncode: its exit code, minus the signal's number if one ended it; None until it was waited for.
    """

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.returncode: int | None = None

    def __repr__(self) -> str:
        return f"<Process pid={self.pid} returncode={self.returncode}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return its exit code.

        Raises:
            TimeoutError: it still runs after `timeout_s`.
        """
        if self.returncode is None:
            if not has_ended(self.pidfd, timeout_s):
                raise TimeoutError(f"process {self.pid} still runs after {timeout_s:g} s")
            self.returncode = exit_code(self.pidfd)
        return self.returncode

    def signal(self, number: int) -> None:
        """Send it a signal; does nothing if it has ended."""
        if self.returncode is None:
            try:
                pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                return

    def close(self) -> None:
        """Kill it if it still runs, and reap it."""
        if self.pidfd < 0:
            return
        self.signal(SIGKILL)
        try:
            self.wait()
        except ChildProcessError:
            self.returncode = -SIGKILL  # somebody else has waited for it
        self.release()

    def release(self) -> None:
        """Let go of it without ending it: whoever inherits our children will reap it."""
        os.close(self.pidfd)
        self.pidfd = -1


def has_ended(pidfd: int, timeout_s: float | None) -> bool:
    """Wait until the process behind `pidfd` has ended or `timeout_s` is over; return whether it has ended."""
    ready = select.poll()
    ready.register(pidfd, select.POLLIN)
    return bool(ready.poll(None if timeout_s is None else timeout_s * 1000))


def exit_code(pidfd: int) -> int:
    """Reap the child behind `pidfd`, which has ended.

    Raises:
        ChildProcessError: it is no child of ours, or somebody has reaped it.
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    assert result is not None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def reap(pid: int) -> None:
    """Take the exit code of `pid` if it is a child of ours that has ended."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
