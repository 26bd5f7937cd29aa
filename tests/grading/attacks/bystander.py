"""A process of the instructor's beside the grading, with secrets in all places that processes have.

Run as ``python bystander.py SECRET-OF-COMMAND``; reads a JSON object of
secrets, plants them, says "ready" and stays.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import threading
from pathlib import Path

SEGMENT = 0x636E6C61
PORT = 47011


def main() -> None:
    """Plant the secrets, and hand out that of the socket to whoever connects."""
    secrets = json.loads(sys.stdin.readline())
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    memory = secrets["memory"].encode()
    ctypes.memmove(libc.shmat(libc.shmget(SEGMENT, 4096, 0o1666), None, 0), memory, len(memory))
    Path("/dev/shm/bystander").write_text(secrets["memory"])
    os.chmod("/dev/shm/bystander", 0o666)
    addresses = [
        (socket.AF_INET, ("127.0.0.1", PORT)), (socket.AF_UNIX, "\0cnlab-attacks"),
        (socket.AF_UNIX, str(Path.home() / "socket")),
    ]  # fmt: skip
    for family, address in addresses:
        server = socket.socket(family)
        server.bind(address)
        server.listen()
        threading.Thread(target=serve, args=(server, secrets["socket"].encode())).start()
    print("ready", flush=True)


def serve(server: socket.socket, secret: bytes) -> None:
    """Answer for ever."""
    while True:
        with server.accept()[0] as client:
            client.sendall(secret)


if __name__ == "__main__":
    main()
