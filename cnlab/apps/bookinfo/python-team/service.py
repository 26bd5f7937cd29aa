"""What the Python services share: an HTTP/1.1 server that can be told to be ill, and that ends politely.

A service is a function from a `Request` to a status and a JSON value, given to `serve`. Its surroundings come
as environment variables: SERVICE_NAME, SERVICE_VERSION, LISTEN (host:port), CALLS, and those of `client`.

See: RFC 9112 on HTTP/1.1 messages.
"""

import contextlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

NAME = os.environ.get("SERVICE_NAME", "unnamed")
VERSION = os.environ.get("SERVICE_VERSION", "v1")
CALLS = tuple(filter(None, os.environ.get("CALLS", "").split(",")))
_LONGEST_BODY = 64 << 10
_GOODBYE_S = 10.0
_NO_ANSWER = 0


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


Answer = Callable[[Request], tuple[int, Any]]


@dataclass
class Health:
    """What ails the service, and how many requests it has had and failed to answer, from whom."""

    fail_rate: float = 0.0
    fail_status: int = 503
    retry_after: str = ""
    slow_s: float = 0.0
    forgets: bool = False  # what the caller's headers said, so that a trace ends here
    requests_by: Counter[str] = field(default_factory=Counter)
    failures_by: Counter[str] = field(default_factory=Counter)


class Server(ThreadingHTTPServer):
    """A thread for each connection; it knows which requests it has not answered yet."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], answer: Answer) -> None:
        self.answer = answer
        self.health = Health()
        self.is_stopping = False
        self._unanswered = 0
        self._changed = threading.Condition()
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Bind without asking the resolver for this machine's name, as `HTTPServer` would."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, but not that a client has gone: it may."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request from its first line to the last byte of its answer."""
        with self._changed:
            self._unanswered += 1
        try:
            yield
        finally:
            with self._changed:
                self._unanswered -= 1
                self._changed.notify_all()

    def finish(self) -> None:
        """Take no more connections and answer what has been asked."""
        self.is_stopping = True
        self.server_close()
        with self._changed:
            self._changed.wait_for(lambda: self._unanswered == 0, _GOODBYE_S)


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open for the next request."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_GET(self) -> None:
        """Answer."""
        with self.server.in_flight():
            self._answer()
            self.wfile.flush()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def _answer(self) -> None:
        length = self.headers.get("content-length", "0")
        if "transfer-encoding" in self.headers or not length.isdecimal() or int(length) > _LONGEST_BODY:
            self.close_connection = True  # where the next request begins is not known
            return self._send(400, {"error": "expected a Content-Length of at most 64 KiB"})
        self.rfile.read(int(length))
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if url.path == "/health" or url.path.startswith("/_"):
            return self._send(*self._administer(url.path, query))
        health, caller = self.server.health, self.headers.get("user-agent", "unknown")
        health.requests_by[caller] += 1
        if health.slow_s:
            time.sleep(health.slow_s)
        if random.random() < health.fail_rate:
            status = self._fail(health)
        else:
            headers = {} if health.forgets else dict(self.headers.items())
            status, value = self.server.answer(Request(self.command, url.path, query, headers))
            self._send(status, value)
        if status == _NO_ANSWER or status >= 500:
            health.failures_by[caller] += 1

    def _administer(self, path: str, query: Mapping[str, str]) -> tuple[int, Any]:
        health = self.server.health
        try:
            if path == "/_fail":
                health.fail_rate, health.fail_status = float(query["rate"]), int(query.get("status", 503))
                health.retry_after = query.get("retry_after", "")
            elif path == "/_slow":
                health.slow_s = max(0.0, float(query["seconds"]))
            elif path == "/_forget":
                health.forgets = True
            elif path == "/_reset":
                self.server.health = Health()
            elif path == "/_count":
                requests, failures = health.requests_by, health.failures_by
                return 200, {"requests": requests.total(), "by": requests, "failed": failures}
            elif path != "/health":
                return 404, {"error": f"no {path} here"}
        except (KeyError, ValueError) as error:
            return 400, {"error": f"{path}: {error}"}
        return 200, {"status": "ok"}

    def _fail(self, health: Health) -> int:
        if health.fail_status == _NO_ANSWER:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            headers = {"retry-after": health.retry_after} if health.retry_after else {}
            self._send(health.fail_status, {"error": f"{NAME} is ill"}, headers)
        return health.fail_status

    def _send(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        is_page = isinstance(value, str)
        body = (value if is_page else json.dumps(value)).encode()
        self.send_response(status)
        self.send_header("content-type", "text/html; charset=utf-8" if is_page else "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-served-by", f"{NAME}-{VERSION}")
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        if self.server.is_stopping or self.close_connection:
            self.close_connection = True
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """Return what the header `server` says."""
        return "python"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: who wants a line for each request has a proxy for that."""


def serve(answer: Answer) -> None:
    """Serve at LISTEN until SIGTERM comes, then finish what has been asked and end."""
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:9080").rpartition(":")
    try:
        server = Server((host, int(port)), answer)
    except OSError as error:
        sys.exit(f"{NAME}-{VERSION}: cannot listen on {host}:{port}: {error.strerror}")
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    print(f"{NAME}-{VERSION} serves {host}:{port}", flush=True)
    with contextlib.suppress(SystemExit):
        server.serve_forever(poll_interval=3600)  # a signal ends it
    server.finish()


def _leave(_number: int, _frame: object) -> NoReturn:
    raise SystemExit
