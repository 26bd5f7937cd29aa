"""Messages over a socket between two processes that need not trust each other.

Interface: `Channel.send` and `Channel.receive`, one JSON value a message; `ask` is both. A message is a
length and a text. What comes from the other side is limited in size and checked to be JSON, nothing more;
whoever reads it checks the rest. File descriptors go along with a message; only a side that says
`takes_fds` lets any in.

See: unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from cnlab.grading.attempt import plain

_HEADER = struct.Struct("!I")
_CHUNK = 1 << 18
_MAX_FDS = 8


class Channel:
    """One end of a stream socket. The first thing that is wrong with it ends it."""

    def __init__(
        self, end: socket.socket, *, takes_fds: bool = False, max_bytes: int = plain.MAX_BYTES
    ) -> None:
        self.socket = end
        self._max_bytes = max_bytes
        self.fds: list[int] = []  # those that came with what was received last
        self._takes_fds = takes_fds
        self._buffer = bytearray()

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait for."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def send(self, message: plain.Json, fds: Sequence[int] = ()) -> None:
        """Send a message, and copies of `fds`.

        Raises:
            NotPlain: it is too large.
            OSError: the other side is gone, or the socket's time is up.
        """
        text = plain.dump(message)
        data = memoryview(_HEADER.pack(len(text)) + text)
        if fds:
            data = data[socket.send_fds(self.socket, [data], list(fds)) :]
        self.socket.sendall(data)

    def receive(self, deadline: float | None = None) -> Any:
        """Wait for the next message, until `deadline` of the monotonic clock.

        Raises:
            TimeoutError: none came in time.
            ConnectionError: the other side is gone.
            NotPlain: what came is no message.
        """
        while not (messages := self.pending(1)):
            left_s = None if deadline is None else deadline - time.monotonic()
            if (left_s is not None and left_s <= 0) or not self._wait(left_s):
                raise TimeoutError("no answer in time")
            self.fill()
        return messages[0]

    def _wait(self, timeout_s: float | None) -> bool:
        poll = select.poll()
        poll.register(self, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def ask(self, message: plain.Json, deadline: float | None = None, *, fds: Sequence[int] = ()) -> Any:
        """Send a message and wait for the next one from there; raises as `send` and `receive`."""
        self.socket.settimeout(None if deadline is None else max(0.01, deadline - time.monotonic()))
        self.send(message, fds)
        return self.receive(deadline)

    def fill(self) -> None:
        """Read once what there is.

        Raises:
            ConnectionError: the other side is gone.
        """
        if self._takes_fds:
            data, fds, _, _ = socket.recv_fds(self.socket, _CHUNK, _MAX_FDS)
            self.fds += fds
        else:
            data = self.socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError("the other side is gone")
        self._buffer += data

    def pending(self, most: int) -> list[Any]:
        """Return complete messages that are here already, `most` of them at most.

        Raises:
            NotPlain: what came is no message.
        """
        found: list[Any] = []
        while len(found) < most and len(self._buffer) >= _HEADER.size:
            size = _HEADER.unpack_from(self._buffer)[0]
            if size > self._max_bytes:
                raise plain.NotPlain(f"a message of {size:,} bytes; expected {self._max_bytes:,} at most")
            if len(self._buffer) < _HEADER.size + size:
                break
            text = self._buffer[_HEADER.size : _HEADER.size + size]
            del self._buffer[: _HEADER.size + size]
            found.append(plain.load(text))
        return found

    def take_fds(self) -> list[int]:
        """Return the descriptors received since the last call; they are the caller's now."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.set_inheritable(fd, False)
        return fds


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
