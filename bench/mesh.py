"""The mesh: how soon a route acts, whether a thousand changes lose a request, and what sidecars cost.

All with real Envoys and twelve services; costs are measured beside a request without any proxy, in one run.
"""

from __future__ import annotations

import http.client
import ssl
import statistics
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from cnlab.apps import bookinfo
from cnlab.mesh import Mesh
from cnlab.mesh.auth.authority import CertificateAuthority
from cnlab.mesh.load import load

PROMISED_P50_S, PROMISED_P95_S = 0.010, 0.030
ROUNDS, CHANGES, CLIENTS = 200, 1000, 4
REQUESTS, CONCURRENCY, LOADED_S = 1000, 16, 3.0
VERSIONS = ("v1", "v2", "v3")
SERVICE, PATH = "reviews", "/health"  # answered by reviews itself: a route is what is measured
PLAIN_SERVICE, PLAIN_PATH = "ratings", "/ratings/0"  # in C where there is a compiler, so it costs least


def main() -> None:
    """Measure and print."""
    with Mesh(bookinfo(12)) as mesh:
        print(f"mesh: {len(mesh.sidecars)} sidecars and a gateway, access log and traces on; ", end="")
        print(", ".join(f"{part} {size / 1e6:.0f} MB" for part, size in mesh.memory_bytes.items()))
        route_to_request(mesh)
        changes_under_load(mesh)
    overhead()


# How soon a route acts


def route_to_request(mesh: Mesh) -> None:
    """Change a route and ask until an answer comes by it; beside that, until all have accepted it."""
    effective, accepted = [], []
    with closing(Client(sidecar_of(mesh, "productpage", SERVICE))) as caller:
        for _, version in zip(range(ROUNDS), cycle(VERSIONS), strict=False):
            started = time.perf_counter()
            mesh.route(SERVICE, to=version, wait=False)
            while caller.ask() != f"{SERVICE}-{version}":
                pass
            effective.append(time.perf_counter() - started)
            mesh.route(SERVICE, to=version)
        for _, version in zip(range(ROUNDS), cycle(VERSIONS), strict=False):
            started = time.perf_counter()
            mesh.route(SERVICE, to=version)
            accepted.append(time.perf_counter() - started)
    p50, p95 = percentiles(effective)
    print("route to first request  ", end="")
    print(f" p50 {p50 * 1e3:5.1f} ms, {p50 / PROMISED_P50_S:.2f} x the promised;", end="")
    print(f" p95 {p95 * 1e3:5.1f} ms, {p95 / PROMISED_P95_S:.2f} x the promised   ({ROUNDS} changes)")
    p50, p95 = percentiles(accepted)
    print(f"  accepted by all sidecars p50 {p50 * 1e3:5.1f} ms, p95 {p95 * 1e3:5.1f} ms")


def changes_under_load(mesh: Mesh) -> None:
    """Change a route a thousand times while clients ask; look at where each request ended."""
    history = History([(0.0, 0.0, VERSIONS[0])])
    mesh.route(SERVICE, to=VERSIONS[0])
    with asking(mesh, CLIENTS) as asked:
        for _, version in zip(range(CHANGES), cycle(VERSIONS[1:] + VERSIONS[:1]), strict=False):
            begun = time.perf_counter()
            mesh.route(SERVICE, to=version)
            history.changes.append((begun, time.perf_counter(), version))
    failed = [one for one in asked if not one.served_by]
    stray = [one for one in asked if one.served_by and one.served_by not in history.allowed(one)]
    print(
        f"{CHANGES} changes, {len(asked)} requests meanwhile   {len(failed)} failed, {len(stray)} astray",
        end="",
    )
    took = [after - before for before, after, _ in history.changes[1:]]
    p50, p95 = percentiles(took)
    print(f"   (a change: p50 {p50 * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms)")


@dataclass(frozen=True)
class Asked:
    """One request: when, and who answered; nobody, if it failed."""

    begun: float
    ended: float
    served_by: str


@dataclass
class History:
    """When each change was asked for and accepted by all sidecars."""

    changes: list[tuple[float, float, str]] = field(default_factory=list)

    def allowed(self, request: Asked) -> set[str]:
        """Return who may have answered: a version holds from its change until the next one is accepted."""
        last = bisect_right(self.changes, request.ended, key=lambda change: change[0])
        allowed = set()
        for index in range(last - 1, -1, -1):
            allowed.add(f"{SERVICE}-{self.changes[index][2]}")
            if self.changes[index][1] <= request.begun:
                break
        return allowed


@contextmanager
def asking(mesh: Mesh, clients: int) -> Iterator[list[Asked]]:
    """Ask without a pause, from several threads, as long as the block lasts."""
    asked: list[Asked] = []
    is_over = threading.Event()

    def ask_on() -> None:
        with closing(Client(sidecar_of(mesh, "productpage", SERVICE))) as caller:
            while not is_over.is_set():
                begun = time.perf_counter()
                served_by = caller.ask()
                asked.append(Asked(begun, time.perf_counter(), served_by))

    threads = [threading.Thread(target=ask_on) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


# What sidecars cost


def overhead() -> None:
    """Ask the same app directly, through its sidecar, and through the caller's too."""
    with Mesh(bookinfo(), mtls="disable", tracing=False, access_log=False) as mesh:
        app = next(one for one in mesh.instances if one.service == PLAIN_SERVICE)
        direct = Way(f"{app.address}:{mesh.ports.app}", PLAIN_SERVICE, PLAIN_PATH)
        inbound = Way(f"{app.address}:{mesh.ports.inbound}", PLAIN_SERVICE, PLAIN_PATH)
        both = sidecar_of(mesh, "productpage", PLAIN_SERVICE, PLAIN_PATH)
        base = report("direct", direct)
        report("one sidecar, plain", inbound, base)
        report("two sidecars, plain", both, base)
        mesh.mtls("strict")
        with certificate(mesh) as context:
            report("one sidecar, mTLS", Way(inbound.address, inbound.host, inbound.path, context), base)
        report("two sidecars, mTLS", both, base)
    with Mesh(bookinfo(), mtls="strict") as mesh:
        report("… with log and traces", sidecar_of(mesh, "productpage", PLAIN_SERVICE, PLAIN_PATH), base)


def report(name: str, way: Way, base: tuple[float, float] | None = None) -> tuple[float, float]:
    """Measure one way and print it beside the direct one: latency alone, and rate under load."""
    times = []
    with closing(Client(way)) as caller:
        for _ in range(REQUESTS):
            started = time.perf_counter()
            caller.ask()
            times.append(time.perf_counter() - started)
    p50, p95 = percentiles(times)
    rate = 0.0
    if way.context is None:
        headers = {"host": way.host}
        rate = load(
            f"http://{way.address}{way.path}", concurrency=CONCURRENCY, seconds=LOADED_S, headers=headers
        ).rate
    print(f"{name:24} p50 {p50 * 1e3:6.2f} ms, p95 {p95 * 1e3:6.2f} ms", end="")
    if base is not None:
        print(f"  +{(p50 - base[0]) * 1e3:.2f} ms, {p50 / base[0]:4.1f} x direct", end="")
    if rate:
        part = f", {rate / base[1]:.2f} of direct" if base else ""
        print(f"   {CONCURRENCY} at once: {rate:5.0f} requests/s{part}", end="")
    print()
    return p50, rate


@contextmanager
def certificate(mesh: Mesh) -> Iterator[ssl.SSLContext]:
    """Be a client with a certificate of the mesh."""
    authority = CertificateAuthority.open(mesh.gateway.directory / "authority")
    svid = authority.issue("productpage")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "svid.pem")
        file.write_text(svid.certificate + svid.private_key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # a SPIFFE ID is no host name
        context.load_verify_locations(cadata=authority.bundle)
        context.load_cert_chain(file)
        yield context


@dataclass(frozen=True)
class Way:
    """Where requests are sent, and what they ask for."""

    address: str
    host: str
    path: str
    context: ssl.SSLContext | None = None


def sidecar_of(mesh: Mesh, source: str, service: str, path: str = PATH) -> Way:
    """Return the way from one service to another."""
    caller = next(one for one in mesh.instances if one.service == source)
    return Way(f"{caller.address}:{mesh.ports.outbound}", service, path)


class Client:
    """Asks over a connection that stays open."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.connection = (
            http.client.HTTPSConnection(way.address, timeout=10, context=way.context)
            if way.context
            else http.client.HTTPConnection(way.address, timeout=10)
        )

    def ask(self) -> str:
        """Return who has answered, "" if nobody has."""
        try:
            self.connection.request("GET", self.way.path, headers={"host": self.way.host})
            response = self.connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return ""
        return response.getheader("x-served-by", "") if response.status == http.client.OK else ""

    def close(self) -> None:
        """Hang up."""
        self.connection.close()


def percentiles(times: list[float]) -> tuple[float, float]:
    """Return p50 and p95."""
    parts = statistics.quantiles(times, n=20)
    return parts[9], parts[18]


if __name__ == "__main__":
    main()
