"""A registry that listens: HTTP around `endpoints`, for the time of a ``with`` block.

It speaks plain HTTP, as registries do on the loopback interface only: docker, podman and skopeo ask for no
certificate there, or can be told so.
"""

import contextlib
import http.server
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from email.message import Message
from http import HTTPStatus
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cnlab.containers.registry.endpoints import Answer, Endpoints, Request, refusal
from cnlab.containers.registry.errors import RegistryError
from cnlab.containers.registry.exchange import Exchange
from cnlab.containers.registry.gate import SCHEMES, Gate
from cnlab.containers.registry.storage import Storage
from cnlab.errors import InvalidValue

_PIECE = 1 << 16
_DRAIN_MAX = 16 << 20  # more of a refused body than this is not worth reading


class Registry:
    """A registry for images in `directory`, which may be empty.

    Args:
        directory: where blobs, manifests and tags are kept; they stay there.
        users: names and passwords; with them, only who has one may pull or push.
        scheme: how users say who they are: "Bearer", by a token, or "Basic", by the password in each request.
        host: address to listen at.
        port: port to listen at; 0 is one that is free.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        users: Mapping[str, str] | None = None,
        scheme: str = "Bearer",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if scheme not in SCHEMES:
            raise InvalidValue(f"Registry(scheme={scheme!r}): expected {' or '.join(map(repr, SCHEMES))}")
        self.storage = Storage(directory)
        self.exchanges: list[Exchange] = []
        self._endpoints = Endpoints(self.storage)
        self._server = _listen(host, port)
        self._server.registry = self
        self._gate = Gate(self.address, users, scheme) if users is not None else None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "Registry":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """The first part of the names of its images: ``127.0.0.1:5000``."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def answer(self, request: Request) -> Answer:
        """Answer a request, refusals included."""
        try:
            if self._gate is not None:
                return self._gate.answer(request, self._endpoints.answer)
            return self._endpoints.answer(request)
        except RegistryError as error:
            return refusal(error)


def _listen(host: str, port: int) -> "_Server":
    try:
        return _Server((host, port), _Handler)
    except OSError as error:
        raise OSError(error.errno, f"bind({host}:{port}): {error.strerror}") from None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    registry: Registry

    def __init__(self, *arguments: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection: clients keep theirs open, so somebody must end it."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Forget the connection."""
        self._connections.discard(request)
        super().close_request(request)

    def server_close(self) -> None:
        """Cut the connections and wait for their threads."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away in the middle of a request, but of all else."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = _PIECE
    server: _Server

    def _serve(self) -> None:
        started = time.perf_counter()
        url = urlsplit(self.path)
        # scope may be given several times; elsewhere the specification knows each name once
        query = {
            name: " ".join(values) for name, values in parse_qs(url.query, keep_blank_values=True).items()
        }
        body = Body(self.rfile, self.headers)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(url.path), query, headers, body)
        answer = self.server.registry.answer(request)
        if not body.drain(_DRAIN_MAX):
            self.close_connection = True
        length = _length(answer)
        downloaded = 0 if self.command == "HEAD" else length
        seconds = time.perf_counter() - started
        # before the answer: a client that has it may look here at once
        self.server.registry.exchanges.append(
            Exchange(self.command, self.path, int(answer.status), body.received, downloaded, seconds)
        )
        self._send(answer, length)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _send(self, answer: Answer, length: int) -> None:
        self.send_response(answer.status)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD" and isinstance(answer.body, bytes):
            self.wfile.write(answer.body)
        self.wfile.flush()
        if self.command != "HEAD" and isinstance(answer.body, Path) and length:
            with answer.body.open("rb") as file:
                self.connection.sendfile(file, answer.offset, length)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: who wants to know reads `Registry.exchanges`."""


def _length(answer: Answer) -> int:
    if isinstance(answer.body, bytes):
        return len(answer.body)
    return answer.body.stat().st_size if answer.length is None else answer.length


class Body:
    """The body of a request, in pieces as they come; framed by its length, or chunked."""

    def __init__(self, stream: BufferedIOBase, headers: Message) -> None:
        self.received = 0
        is_chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        self._pieces = (
            _chunked(stream) if is_chunked else _exactly(stream, int(headers.get("Content-Length") or 0))
        )

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.received += len(piece)
            yield piece

    def drain(self, limit: int) -> bool:
        """Read what nobody has read, so that the next request follows; give up after about `limit` bytes."""
        limit += self.received
        with contextlib.suppress(OSError, ValueError):
            return all(self.received <= limit for _ in self)
        return False


def _exactly(stream: BufferedIOBase, size: int) -> Iterator[bytes]:
    while size:
        piece = stream.read(min(size, _PIECE))
        if not piece:
            raise ConnectionResetError("the client went away in the middle of a body")
        size -= len(piece)
        yield piece


def _chunked(stream: BufferedIOBase) -> Iterator[bytes]:
    """Read what RFC 9112 calls the chunked transfer coding."""
    while size := int(stream.readline(80).partition(b";")[0], 16):
        yield from _exactly(stream, size)
        stream.readline(80)
    while stream.readline(1 << 16).strip():
        pass  # trailers
