"""A registry that listens: HTTP around `endpoints`, for the time of a ``with`` block.

It speaks plain HTTP, as registries do on the loopback interface only: docker, podman and skopeo ask for no
certificate there, or can be told so.
"""

import contextlib
import http.server
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.message import Message
from hmac import compare_digest
from http import HTTPStatus
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cnlab.containers.registry.endpoints import Answer, Endpoints, Request, needed_access, refusal
from cnlab.containers.registry.errors import RegistryError
from cnlab.containers.registry.exchange import Exchange
from cnlab.containers.registry.storage import Storage
from cnlab.containers.registry.tokens import LIFETIME_S, Access, Challenge, TokenIssuer, basic_credentials
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
        if scheme not in ("Bearer", "Basic"):
            raise InvalidValue(f"Registry(scheme={scheme!r}): expected 'Bearer' or 'Basic'")
        self.storage = Storage(directory)
        self.exchanges: list[Exchange] = []
        self._endpoints = Endpoints(self.storage)
        self._users = users
        self._scheme = scheme
        self._issuer = TokenIssuer()
        self._server = _Server((host, port), _Handler)
        self._server.registry = self
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
            if request.path == "/token" and self._users is not None:
                return self._token(request)
            if self._users is None:
                return self._endpoints.answer(request)
            granted = self._granted(request)
            needed = needed_access(request)
            if granted is None or (needed and not _covers(granted, needed)):
                return self._challenge(needed, is_known=granted is not None)
            return self._endpoints.answer(_without_foreign_mount(request, granted))
        except RegistryError as error:
            return refusal(error)

    def _granted(self, request: Request) -> list[Access] | None:
        """Return what the client may do; None: it has not said who it is."""
        header = request.headers.get("authorization", "")
        if self._scheme == "Basic":
            return [_EVERYTHING] if self._knows(basic_credentials(header)) else None
        scheme, _, token = header.partition(" ")
        return self._issuer.allowed(token) if scheme.lower() == "bearer" else None

    def _knows(self, credentials: tuple[str, str] | None) -> bool:
        if credentials is None or self._users is None:
            return False
        expected = self._users.get(credentials[0])
        return expected is not None and compare_digest(expected.encode(), credentials[1].encode())

    def _challenge(self, needed: Access | None, *, is_known: bool) -> Answer:
        if self._scheme == "Basic":
            challenge = Challenge("Basic", {"realm": self.address})
        else:
            parameters = {"realm": f"http://{self.address}/token", "service": self.address}
            if needed:
                parameters["scope"] = str(needed)
            if is_known:
                parameters["error"] = "insufficient_scope"
            challenge = Challenge("Bearer", parameters)
        answer = refusal(RegistryError("UNAUTHORIZED", f"log in to {needed or self.address}"))
        return Answer(answer.status, {**answer.headers, "WWW-Authenticate": str(challenge)}, answer.body)

    def _token(self, request: Request) -> Answer:
        """Give out a token: to a user for what is asked, to others one that allows nothing."""
        credentials = basic_credentials(request.headers.get("authorization", ""))
        if credentials is not None and not self._knows(credentials):
            raise RegistryError("UNAUTHORIZED", f"wrong user or password: {credentials[0]}")
        scopes = request.query.get("scope", "").split() if credentials else []
        token = self._issuer.issue(credentials[0] if credentials else "", map(Access.parse, scopes))
        issued = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {"token": token, "access_token": token, "expires_in": LIFETIME_S, "issued_at": issued}
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


class _Everything(Access):
    def covers(self, needed: Access) -> bool:
        return True


_EVERYTHING = _Everything("", ("*",))


def _without_foreign_mount(request: Request, granted: list[Access]) -> Request:
    """Forget that a blob is to be mounted from a repository that the client may not read."""
    source = request.query.get("from")
    if source is None or _covers(granted, Access(source, ("pull",))):
        return request
    return replace(request, query={name: value for name, value in request.query.items() if name != "from"})


def _covers(granted: list[Access], needed: Access) -> bool:
    return any(access.covers(needed) for access in granted)


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
