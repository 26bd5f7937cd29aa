"""What a container says: its standard output and error, or its terminal, kept as they come.

Interface: an `Output` has the ends that a process is `given`, reads the other ends in a thread once the
process has its own (`begin`), and answers `read` and `follow`.

See: the runtime-spec's command line on ``--console-socket``; pty(7).
"""

import contextlib
import fcntl
import itertools
import os
import selectors
import socket
import struct
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

_STDOUT, _STDERR = 1, 2
_CHUNK = 1 << 16
_LAST_WORD_S = 5.0


class Ends(TypedDict):
    """What `runtime.create` and `runtime.exec` want to know of a process's output."""

    stdio: tuple[int, int, int]
    console_socket: str | None


class Output:
    """The output of one process.

    Args:
        console_socket: where the runtime shall connect to and send the terminal; None for no terminal.
    """

    def __init__(self, console_socket: Path | None = None) -> None:
        self._console_socket = console_socket
        self.terminal: int | None = None  # our end of it
        self._chunks: list[tuple[int, bytes]] = []
        self._news = threading.Condition()
        self._is_complete = False
        self._readers: dict[int, int] = {}  # our file descriptor -> stdout or stderr
        self._theirs: list[int] = [os.open(os.devnull, os.O_RDWR)]
        self._listener: socket.socket | None = None
        if console_socket is None:
            for stream in (_STDOUT, _STDERR):
                reading, writing = os.pipe()
                self._readers[reading] = stream
                self._theirs.append(writing)
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(console_socket))
            self._listener.listen(1)
        self._thread = threading.Thread(target=self._pump, name="container output", daemon=True)

    @contextlib.contextmanager
    def given(self) -> Iterator[Ends]:
        """Give the process's ends for its creation; if that fails, nothing is left open."""
        null, *writing = self._theirs
        stdout, stderr = writing or (null, null)
        socket_path = None if self._console_socket is None else str(self._console_socket)
        try:
            yield {"stdio": (null, stdout, stderr), "console_socket": socket_path}
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Go on when the process has its ends: let go of them, take the terminal, read."""
        self._let_go()
        if self._listener is not None:
            with self._listener, self._listener.accept()[0] as connection:
                _, (self.terminal, *_), _, _ = socket.recv_fds(connection, 4096, 1)
            self._readers[self.terminal] = _STDOUT
            self.resize(24, 80)
        self._thread.start()

    def close(self) -> None:
        """Wait until the last word is read: when all who could write have ended, or left it open too long."""
        self._let_go()
        if self._thread.is_alive():
            self._thread.join(_LAST_WORD_S)
        elif not self._is_complete:  # it never began
            if self._listener is not None:
                self._listener.close()
            for reader in self._readers:
                os.close(reader)
            self._is_complete = True

    def read(self, *, stdout: bool = True, stderr: bool = True) -> bytes:
        """Return what has been said so far."""
        wanted = {_STDOUT: stdout, _STDERR: stderr}
        return b"".join(chunk for stream, chunk in self._chunks if wanted[stream])

    def follow(self) -> Iterator[bytes]:
        """Give what has been said and what will be, piece by piece, to the end."""
        for position in itertools.count():
            with self._news:
                while position == len(self._chunks) and not self._is_complete:
                    self._news.wait()
            if position == len(self._chunks):
                return
            yield self._chunks[position][1]

    def resize(self, height: int, width: int) -> None:
        """Tell the terminal how large its window is; see ioctl_tty(2), TIOCSWINSZ."""
        if self.terminal is not None:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))

    def _let_go(self) -> None:
        while self._theirs:
            os.close(self._theirs.pop())

    def _pump(self) -> None:
        with selectors.DefaultSelector() as selector:
            for reader in self._readers:
                selector.register(reader, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    if not self._take(key.fd):
                        selector.unregister(key.fd)
        with self._news:
            for reader in self._readers:
                os.close(reader)
            self.terminal = None
            self._is_complete = True
            self._news.notify_all()

    def _take(self, reader: int) -> bool:
        """Keep what there is to read; False at the end, which a terminal tells by EIO."""
        chunk = b""
        with contextlib.suppress(OSError):
            chunk = os.read(reader, _CHUNK)
        if chunk:
            with self._news:
                self._chunks.append((self._readers[reader], chunk))
                self._news.notify_all()
        return bool(chunk)
