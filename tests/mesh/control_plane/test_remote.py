"""Asking the control plane: a connection that stays open, until the other side closes it."""

import socketserver
import threading

import pytest

from cnlab.mesh.control_plane.remote import RemoteControlPlane
from cnlab.mesh.errors import ControlPlaneDown
from cnlab.mesh.settings import ControlPlaneSettings, Surroundings


class AnswersOnce(socketserver.StreamRequestHandler):
    """Says it keeps the connection, and closes it: as a server does with one that is idle for an hour."""

    def handle(self):
        self.server.asked.append(self.rfile.readline().decode().rpartition(" ")[0])
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


class Server(socketserver.UnixStreamServer):
    """Remembers what it was asked."""

    def __init__(self, path):
        super().__init__(str(path), AnswersOnce)
        self.asked = []


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path / "api.sock") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="server")
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def remote(server, tmp_path):
    remote = RemoteControlPlane(
        ControlPlaneSettings("127.1.2.1", str(tmp_path), Surroundings("127.1.2.2")), tmp_path
    )
    yield remote
    remote.stop()


def test_connection_that_was_closed_meanwhile_is_made_anew(remote, server):
    """The first question after a long lunch is answered like any other."""
    for _ in range(3):
        assert {} == remote.ask("GET", "/status")

    assert ["GET /status"] * 3 == server.asked


def test_what_may_not_be_done_twice_is_not_sent_twice(remote, server):
    """Certificates may have been rotated before the connection broke: who asked has to decide."""
    remote.ask("GET", "/status")

    with pytest.raises(ControlPlaneDown, match="POST /rotate"):
        remote.ask("POST", "/rotate")
    assert {} == remote.ask("POST", "/rotate")
    assert ["GET /status", "POST /rotate"] == server.asked
