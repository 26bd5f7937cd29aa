"""A pseudoterminal inside the container, and its other end for whoever is to hold it.

See: runtime-spec, config.md, "terminal"; pty(7), ioctl_tty(2).
"""

from __future__ import annotations

import _socket  # `socket` itself takes longer to import than all of this
import fcntl
import os

from cnlab.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TIOCSCTTY, _TIOCSWINSZ, _TIOCGPTN, _TIOCSPTLCK = 0x540E, 0x5414, 0x80045430, 0x40045431
_INT = 4  # bytes


def connect(path: str | int) -> int:
    """Return a connection to the Unix socket at `path`, or a copy of one that is connected already."""
    if isinstance(path, int):
        return os.dup(path)
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    try:
        socket.connect(path)
    except OSError as error:
        socket.close()
        raise OSError(error.errno, f"connect({path}): {error.strerror}") from None
    return socket.detach()


def pair() -> tuple[int, int]:
    """Return two connected sockets, for a runtime that holds the terminal itself."""
    ours, theirs = _socket.socketpair()
    return ours.detach(), theirs.detach()


def receive(fd: int) -> int:
    """Return the terminal's descriptor that `open_and_send` sent."""
    socket = _socket.socket(fileno=fd)
    try:
        _, ancillary, _, _ = socket.recvmsg(4096, _socket.CMSG_SPACE(_INT))
    finally:
        socket.detach()
    if not ancillary:
        raise ChildProcessError("the container's process ended before it had a terminal")
    return int.from_bytes(ancillary[0][2][:_INT], "little")


def open_and_send(console: int, process: dict[str, Any], *, is_init: bool) -> None:
    """Make a terminal, make it the caller's, and send its other end over the socket `console`.

    Call it in the container after its root is in place: the terminal is one of the container's own
    ``/dev/pts``. The caller must lead a session.

    Args:
        console: a connected Unix socket; it is closed.
        process: with ``consoleSize``, if any, and the user, who will own the terminal.
        is_init: whether it is ``/dev/console`` too.
    """
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, bytes(_INT))
    number = int.from_bytes(fcntl.ioctl(master, _TIOCGPTN, bytes(_INT)), "little")
    path = f"/dev/pts/{number}"
    if size := process.get("consoleSize"):
        words = (size["height"], size["width"], 0, 0)
        fcntl.ioctl(master, _TIOCSWINSZ, b"".join(word.to_bytes(2, "little") for word in words))
    if is_init:
        _bind_console(path)
    slave = os.open(path, os.O_RDWR | os.O_NOCTTY)
    uid = (process.get("user") or {}).get("uid", 0)
    if uid:
        os.fchown(slave, uid, -1)
    _send(console, path, master)
    os.close(master)
    fcntl.ioctl(slave, _TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    if slave > 2:
        os.close(slave)


def _bind_console(path: str) -> None:
    if not os.path.lexists("/dev/console"):
        os.close(os.open("/dev/console", os.O_CREAT | os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC, 0o666))
    syscalls.mount(path, "/dev/console", flags=syscalls.MS_BIND)


def _send(console: int, name: str, fd: int) -> None:
    socket = _socket.socket(fileno=console)
    try:
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(_INT, "little"))
        socket.sendmsg([name.encode()], [rights])
    finally:
        socket.close()
