"""A server with metrics, as a sidecar's administrative port is one; what it counts can be set."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cnlab.mesh.observability.scraper import SIDECAR_PATH, Target


def counted(requests: int, errors: int) -> str:
    """Return what Envoy says after so many requests to the app, half of which took less than 5 ms."""
    inbound = 'envoy_http_conn_manager_prefix="inbound"'
    name, buckets = "envoy_http_downstream_rq_xx", "envoy_http_downstream_rq_time_bucket"
    lines = [f'{name}{{{inbound},envoy_response_code_class="2"}} {requests - errors}']
    lines += [f'{name}{{{inbound},envoy_response_code_class="5"}} {errors}']
    counts = {"1": 0, "5": requests // 2, "10": requests, "+Inf": requests}
    lines += [f'{buckets}{{{inbound},le="{bound}"}} {count}' for bound, count in counts.items()]
    lines += [f"envoy_http_downstream_rq_active{{{inbound}}} 3"]
    return "".join(f"{line}\n" for line in lines)


class Exporter(ThreadingHTTPServer):
    """Answers every GET with `text`, made at that moment if it is a function; `paths` were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.text: str | Callable[[], str] = ""
        self.status = 200
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def target(self, **labels: str) -> Target:
        return Target(self.url + SIDECAR_PATH, labels)

    def count(self, requests: int, errors: int) -> None:
        """Say what Envoy would say after so many requests to the app."""
        name = (
            'envoy_http_downstream_rq_xx{envoy_http_conn_manager_prefix="inbound",envoy_response_code_class='
        )
        self.text = f'{name}"2"}} {requests - errors}\n{name}"5"}} {errors}\n'


class _Handler(BaseHTTPRequestHandler):
    server: Exporter

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        text = self.server.text
        body = (text if isinstance(text, str) else text()).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def exporter() -> Iterator[Exporter]:
    """Serve until the end of the block."""
    with Exporter() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
