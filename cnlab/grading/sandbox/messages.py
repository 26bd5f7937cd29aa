"""What the sandbox's processes tell each other: one JSON object a packet, and descriptors with it.

See: unix(7), ``SOCK_SEQPACKET`` and ``SCM_RIGHTS``.
"""

import contextlib
import json
import os
import socket
import traceback
from collections.abc import Sequence
from typing import Any

from cnlab.errors import CnlabError, MissingFeature

_PACKET_BYTES = 1 << 16
_MAX_FDS = 4

Message = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a conversation."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(to: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message; it is lost if nobody reads them."""
    with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        socket.send_fds(to, [json.dumps(message).encode()], list(fds))


def receive(sender: socket.socket) -> tuple[Message, list[int]] | None:
    """Return the next message and the descriptors with it, or None at the end."""
    try:
        packet, fds, _, _ = socket.recv_fds(sender, _PACKET_BYTES, _MAX_FDS)
    except ConnectionResetError:
        return None
    return (json.loads(packet), fds) if packet else None


def failure(error: BaseException) -> Message:
    """Describe an error, to be raised elsewhere by `raise_failure`."""
    if isinstance(error, MissingFeature):
        return {"failed": [error.feature, error.reason, error.hint]}
    if isinstance(error, OSError) and error.errno:
        reason = f"{error.strerror}: {error.filename!r}" if error.filename else str(error.strerror)
        return {"failed": [error.errno, reason]}
    if isinstance(error, CnlabError):
        return {"failed": [str(error)]}
    return {"failed": ["".join(traceback.format_exception(error))[-8000:]]}


def raise_failure(message: Message) -> None:
    """Raise the error that the other side met, if the message tells of one."""
    match message.get("failed"):
        case [int(number), str(reason)]:
            raise OSError(number, reason)
        case [str(feature), str(reason), str(hint)]:
            raise MissingFeature(feature, reason, hint=hint)
        case [str(reason)]:
            raise ChildProcessError(f"the sandbox did not begin: {reason}")


def pid_of(pidfd: int) -> int:
    """Return the number of the process behind `pidfd` where the caller is; 0 if it has none there."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return max(0, next(int(line.split()[1]) for line in file if line.startswith("Pid:")))


def close(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)
