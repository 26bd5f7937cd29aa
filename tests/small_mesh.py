"""Servers that say their names, and the resources that lead a proxy to them, for tests of discovery."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cnlab.mesh.pilot.registry import Endpoint
from cnlab.mesh.pilot.resources import (
    CDS,
    EDS,
    LDS,
    RDS,
    assignment,
    cluster,
    http_connection_manager,
    outbound_listener,
    route,
    route_configuration,
    virtual_host,
)

Resources = dict[str, list[dict[str, Any]]]
PORT = 15001


class _SaysItsName(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.server.says.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(name)))
        self.end_headers()
        self.wfile.write(name)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def backend(name: str) -> Iterator[Endpoint]:
    """Serve HTTP: whatever is asked, the answer is `name`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _SaysItsName) as server:
        server.says = name
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield Endpoint(name, "127.0.0.1", server.server_port)
        finally:
            server.shutdown()


def own_address() -> str:
    """Return a loopback address that is hardly anybody else's, for a proxy's listener at 15001."""
    return f"127.{random.randrange(100, 250)}.{random.randrange(1, 250)}.{random.randrange(1, 250)}"


def resources(address: str, to: str | Mapping[str, int], *endpoints: Endpoint, **changes: Any) -> Resources:
    """Return all that a proxy needs to send what it gets at `address` to clusters of these endpoints."""
    host = virtual_host("all", ["*"], [route(to)])
    manager = http_connection_manager("outbound", "outbound")
    return {
        CDS: [cluster(one.service, **changes) for one in endpoints],
        EDS: [assignment(one.service, [one]) for one in endpoints],
        LDS: [outbound_listener("outbound", address, PORT, manager)],
        RDS: [route_configuration("outbound", [host])],
    }


def ask(address: str, port: int = PORT) -> str:
    """Send a request through a proxy; return what the server behind it said, or a status that is not 200."""
    with contextlib.closing(http.client.HTTPConnection(address, port, timeout=5)) as connection:
        try:
            connection.request("GET", "/", headers={"Host": "anybody"})
            response = connection.getresponse()
        except ConnectionError as error:
            return type(error).__name__
        body = response.read().decode()
        return body if response.status == 200 else str(response.status)


def plain(value: Any) -> Any:
    """Return what JSON makes of a value: what a proxy prints can be compared with what it was sent."""
    return json.loads(json.dumps(value))
