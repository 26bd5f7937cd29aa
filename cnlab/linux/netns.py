"""Network namespaces by file descriptor: hold one open, make one, step into one.

A namespace lasts while a process is in it or a file descriptor refers to it. setns(2) moves only the calling
thread, and a socket stays for good in the namespace where it was opened: so a program can serve several.

See: network_namespaces(7), setns(2).
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from cnlab.linux import syscalls

_OWN = "/proc/thread-self/ns/net"
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1


class HasPid(Protocol):
    """Anything that runs, such as a `Child`."""

    @property
    def pid(self) -> int:
        """Its process id."""


class NetNs:
    """A network namespace, held open by descriptor `fd`; `inode` is the number in ``net:[4026532008]``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.inode = os.fstat(fd).st_ino

    @classmethod
    def open(cls, target: "NetNsTarget") -> Self:
        """Open the namespace of a process, by its pid or an object that has one, or the one bound at a path.

        Raises:
            ProcessLookupError: there is no such process.
        """
        if isinstance(target, NetNs):
            return cls(os.dup(target.fd))
        if isinstance(target, str | os.PathLike):
            return cls(os.open(target, os.O_RDONLY | os.O_CLOEXEC))
        pid = target if isinstance(target, int) else target.pid
        try:
            return cls(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            reason = f"open(/proc/{pid}/ns/net): no process {pid}; it may have ended"
            raise ProcessLookupError(errno.ESRCH, reason) from None

    @classmethod
    def current(cls) -> Self:
        """Open the namespace that the calling thread is in."""
        return cls(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def create(cls) -> Self:
        """Make a namespace that no process is in; it holds nothing but a loopback interface that is down."""
        with cls.current() as before:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            try:
                return cls.current()
            finally:
                syscalls.setns(before.fd, syscalls.CLONE_NEWNET)

    def close(self) -> None:
        """Let go of it; the kernel removes it, and the links in it, once nobody is left who uses it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __repr__(self) -> str:
        return f"<NetNs net:[{self.inode}]>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


NetNsTarget = int | str | os.PathLike[str] | HasPid | NetNs


def set_loopback_up() -> None:
    """Set ``lo`` of the calling thread's own namespace up: in a new one it is down.

    See: netdevice(7), ``SIOCSIFFLAGS``.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


@contextlib.contextmanager
def inside(target: NetNsTarget) -> Iterator[None]:
    """Let the calling thread be in that network namespace within the block, and all that it starts there."""
    with NetNs.current() as before, NetNs.open(target) as there:
        syscalls.setns(there.fd, syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(before.fd, syscalls.CLONE_NEWNET)
