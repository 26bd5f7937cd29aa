"""One Envoy with a configuration that never changes, an upstream behind it and our gRPC services beside it.

What a service of the mesh says to Envoy is tested with nothing but that service: no discovery, no mesh.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from cnlab.mesh.auth.identity import Svid
from cnlab.mesh.auth.mtls import sds_secrets
from cnlab.mesh.data_plane import instance
from cnlab.mesh.data_plane.proxy import Proxy
from cnlab.mesh.mixer import telemetry, tracing
from cnlab.mesh.pilot import resources

T = TypeVar("T")
SERVICES = "xds-grpc"
"""The cluster of our gRPC services."""
FILTERS = [
    resources.extension(
        "envoy.filters.http.fault",
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        abort={"header_abort": {}, "percentage": {"numerator": 100}},
    )
]
"""Who sends ``x-envoy-fault-abort-request: 418`` gets that from the sidecar."""


class Services:
    """An event loop in a thread, with a gRPC server in it that has what `add` adds."""

    def __init__(self, *parts: Any) -> None:
        self._parts = parts
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="services")

    def __enter__(self) -> Services:
        self._thread.start()
        self.port = self.run(self._serve())
        return self

    def __exit__(self, *reason: object) -> None:
        self.run(self._server.stop(None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    async def _serve(self) -> int:
        self._server = grpc.aio.server()
        for part in self._parts:
            part.add_to(self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port


class _Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the headers that it got; ``/status/503`` with that status."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two would wait 40 ms for an acknowledgement

    def do_GET(self) -> None:
        words = self.path.partition("?")[0].split("/")
        status = int(words[2]) if words[1:2] == ["status"] else 200
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-served-by", "echo-v1")
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        """Write nothing."""


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """Run an HTTP server that tells what it was asked; yield its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="upstream"
        )
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    body: str
    headers: dict[str, str]


def listener(name: str, chains: list[Any], **fields: Any) -> Any:
    """Return a listener on any free port of the loopback."""
    return resources.listener(name, "127.0.0.1", 0, chains, **fields)


def manager(name: str, routes: list[Any], filters: list[Any] = [], **fields: Any) -> Any:  # noqa: B006
    """Return an HTTP connection manager that has its routes in it."""
    hosts = [resources.virtual_host(name, ["*"], routes)]
    return resources.http_connection_manager(
        name, resources.route_configuration(name, hosts), filters, **fields
    )


class Sidecar:
    """An Envoy that runs; called with the name of a listener, it says on which port that is."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def __call__(self, name: str) -> int:
        found = next(one for one in self.proxy.listeners() if one["name"] == name)
        return int(found["local_address"]["socket_address"]["port_value"])


@contextlib.contextmanager
def envoy(
    listeners: list[Any],
    *,
    app: int = 1,
    services: int = 1,
    clusters: list[Any] = [],  # noqa: B006
    node: str = "ratings-v1-0",
    **fields: Any,
) -> Iterator[Sidecar]:
    """Run an Envoy with clusters ``app`` and `SERVICES`."""
    bootstrap = {
        "node": {"id": node, "cluster": node.split("-")[0]},
        "admin": {"address": resources.socket_address("127.0.0.1", 0)},
        "static_resources": {
            "listeners": listeners,
            "clusters": [
                resources.static_cluster("app", [("127.0.0.1", app)]),
                resources.grpc_cluster(SERVICES, ("127.0.0.1", services)),
                *clusters,
            ],
        },
        **fields,
    }
    with Proxy(node, bootstrap) as proxy:
        yield Sidecar(proxy)


def ask(
    port: int,
    path: str = "/",
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request on a connection of its own."""
    if tls:
        connection: Any = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=tls)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        body = response.read().decode()
        return Answer(response.status, body, {name.lower(): value for name, value in response.getheaders()})


@contextlib.contextmanager
def two_sidecars(app: int, services: int) -> Iterator[tuple[Sidecar, Sidecar]]:
    """Run the sidecars of reviews and of ratings, which reviews calls; both report what they see to us.

    Requests to ``/shut`` go where nobody listens.
    """

    def reporting(name: str, service: str, reporter: str, routes: list[Any], **fields: Any) -> Any:
        words = {
            "tracing": tracing.tracer(service, SERVICES),
            "access_log": [telemetry.access_logger(SERVICES, reporter=reporter, flush="0.05s")],
        }
        chain = {"filters": [manager(name, routes, FILTERS, **words)]}
        return listener(name, [chain], **fields)

    runtime = {"layered_runtime": instance.report_spans_soon(flush_interval_s=0.05)}
    inbound = reporting(
        "inbound", "ratings", "destination", [resources.route("app")], traffic_direction="INBOUND"
    )
    with (
        envoy([inbound], app=app, services=services, **runtime) as ratings,
        socket.socket() as silent,
    ):
        silent.bind(("127.0.0.1", 0))  # nobody else can have the port now, and who asks is refused
        shut = silent.getsockname()[1]
        clusters = [
            resources.static_cluster("outbound|9080||ratings", [("127.0.0.1", ratings("inbound"))]),
            resources.static_cluster("outbound|9080|v2|details", [("127.0.0.1", shut)]),
        ]
        retry = {"retry_on": "connect-failure", "num_retries": 2}
        routes = [
            resources.route("outbound|9080|v2|details", {"prefix": "/shut"}, retry_policy=retry),
            resources.route("outbound|9080||ratings"),
        ]
        outbound = reporting("outbound", "reviews", "source", routes, traffic_direction="OUTBOUND")
        words = {"clusters": clusters, "services": services, "node": "reviews-v1-0", **runtime}
        with envoy([outbound], **words) as reviews:
            yield reviews, ratings


def put_secrets(directory: Path, svid: Svid, bundle: str) -> None:
    """Give secrets to who watches the directory: each in a file, written and then renamed."""
    directory.mkdir(exist_ok=True)
    for secret in sds_secrets(svid, bundle):
        new = directory / "new"
        new.write_text(json.dumps({"resources": [{"@type": resources.SDS, **secret}]}))
        new.rename(directory / f"{secret['name']}.json")


def from_files(config: Any, directory: Path) -> Any:
    """Return the configuration with its secrets from files instead of a server."""
    if isinstance(config, list):
        return [from_files(part, directory) for part in config]
    if not isinstance(config, dict):
        return config
    if "sds_config" in config:
        return {**config, "sds_config": resources.file_source(directory / f"{config['name']}.json")}
    return {word: from_files(value, directory) for word, value in config.items()}


def tls_client(bundle: str, svid: Svid | None = None) -> ssl.SSLContext:
    """Return how a client without a sidecar shows its certificate, if it has one, and whom it trusts."""
    context = ssl.create_default_context(cadata=bundle)
    context.check_hostname = False  # names are in URIs, which Python does not compare
    if svid:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(svid.certificate + svid.private_key)
            file.flush()
            context.load_cert_chain(file.name)
    return context
