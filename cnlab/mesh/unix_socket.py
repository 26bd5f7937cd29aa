"""UNIX sockets in a private directory: on a machine that people share, a loopback port is everybody's.

See: unix(7); "Istio agent" in Istio's architecture: a proxy gets its secrets over such a socket, too.
"""

import http.client
import os
import socket
from pathlib import Path

from cnlab.mesh.errors import MeshError

_LONGEST = 107  # bytes of sun_path in linux/un.h, without the last, which is 0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket; whoever may not enter its directory cannot connect."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket in place of a port."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def check_path(path: Path) -> None:
    """Find out whether a socket can have this path.

    Raises:
        MeshError: it is too long.
    """
    length = len(os.fsencode(path))
    if length > _LONGEST:
        error = MeshError(f"{path}: the path of a UNIX socket may have {_LONGEST} bytes, this has {length}")
        error.add_note("Hint: set TMPDIR to a directory with a shorter path, such as /tmp")
        raise error
