"""New certificates for all services, every second, under load: ``python -m bench.mesh_rotation SECONDS``."""

from __future__ import annotations

import sys
import time

from cnlab.apps import bookinfo
from cnlab.clock import wait_until
from cnlab.mesh import Mesh
from cnlab.mesh.auth.identity import load_certificates
from cnlab.mesh.load import Load, loading

SECONDS = 60.0
EVERY_S = 1.0
TTL_S = 5.0  # so that what is not replaced expires within the measurement
REQUESTS_PER_CONNECTION = 10  # so that handshakes go on: a connection that stands keeps its certificate
CONCURRENCY = 4


def main(seconds: float = SECONDS) -> None:
    """Rotate and load, and say what failed."""
    with Mesh(bookinfo(), mtls="strict", certificate_ttl_s=TTL_S) as mesh:
        with mesh.changes():
            for service in mesh.services:
                mesh.cluster(service, max_requests_per_connection=REQUESTS_PER_CONNECTION)
        before = _handshakes(mesh)
        with loading(f"{mesh.url}/productpage", concurrency=CONCURRENCY) as load:
            serials = _rotate(mesh, seconds)
        _print(load.result, len(serials), _handshakes(mesh) - before)


def _rotate(mesh: Mesh, seconds: float) -> set[int]:
    """Rotate for so long; return the serial numbers that a client then saw at one of the sidecars."""
    seen = {_serial_number(mesh)}
    deadline = time.monotonic() + seconds
    while (started := time.monotonic()) < deadline:
        mesh.rotate_certificates()
        wait_until(lambda: _serial_number(mesh) not in seen, timeout_s=5, what="the new certificate")
        seen.add(_serial_number(mesh))
        time.sleep(max(0.0, EVERY_S - (time.monotonic() - started)))
    return seen


def _serial_number(mesh: Mesh) -> int:
    instance = next(one for one in mesh.instances if one.service == "reviews")
    text = instance.sidecar.certificate(instance.address, mesh.ports.inbound)
    return load_certificates(text)[0].serial_number


def _handshakes(mesh: Mesh) -> int:
    """Return how many TLS handshakes the sidecars' inbound listeners have finished."""
    counters = (proxy.stats(r"^listener\..*\.ssl\.handshake$") for proxy in mesh.sidecars.values())
    return sum(sum(one.values()) for one in counters)


def _print(load: Load, certificates: int, handshakes: int) -> None:
    failed = load.requests - load.successes
    print(f"{certificates - 1} rotations in {load.seconds:.0f} s, each seen by a client at a sidecar's port")
    print(f"  {handshakes} mTLS handshakes; certificates were good for {TTL_S:.0f} s")
    print(f"  {load.requests} requests, p99 {load.percentile_s(99) * 1e3:.0f} ms")
    print(f"  failed: {failed}, promised 0" + (f" ({load.statuses}, {load.failures})" if failed else ""))


if __name__ == "__main__":
    main(*(float(word) for word in sys.argv[1:]))
