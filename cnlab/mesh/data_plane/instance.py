"""One instance of a service in the mesh: an app, and the sidecar beside it.

The app is told that its peers are at its own sidecar; of anything behind that it knows nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cnlab import apps
from cnlab.apps.launcher import Launcher, Running
from cnlab.errors import InvalidValue
from cnlab.mesh.addresses import Place, check_free
from cnlab.mesh.configuration import Workload
from cnlab.mesh.data_plane.proxy import Proxy
from cnlab.mesh.pilot.bootstrap import CONTROL_PLANE, bootstrap, file_bootstrap, with_metrics
from cnlab.mesh.pilot.resources import Json, grpc_cluster
from cnlab.mesh.settings import ControlPlaneSettings, Surroundings

Order = Literal["together", "app-first", "proxy-first"]
ORDERS: tuple[Order, ...] = ("together", "app-first", "proxy-first")
_BUCKETS_MS = (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 250, 500, 1000, 2500, 5000, 10000)


class Instance:
    """An app and its sidecar, at one address."""

    def __init__(
        self,
        copy: apps.Instance,
        place: Place,
        sidecar: Proxy,
        launcher: Launcher,
        surroundings: Surroundings,
    ) -> None:
        self.name = copy.name
        self.service = copy.service.name
        self.version = copy.version
        self.address = place.address
        self.sidecar = sidecar
        self.app: Running | None = None
        self.is_ready = True  # may get requests
        self._copy = copy
        self._place = place
        self._launcher = place.launcher or launcher
        self._ports = surroundings.ports
        self._is_transparent = surroundings.is_transparent

    def __repr__(self) -> str:
        parts = {"app": self.is_running, "sidecar": self.sidecar.is_running}
        down = [f"{part} not running" for part, is_running in parts.items() if not is_running]
        return f"<{self.name} at {self.address}, {', '.join(down) or 'running'}>"

    @property
    def pid(self) -> int:
        """The app's process; 0 before its start."""
        return self.app.pid if self.app else 0

    @property
    def is_running(self) -> bool:
        """Whether the app is there; of the proxy says `sidecar.is_running`."""
        return self.app is not None and self.app.is_running

    @property
    def workload(self) -> Workload:
        """What the control plane is to know of it."""
        return Workload(self.name, self.service, self.version, self.address, self.is_ready)

    @property
    def environment(self) -> dict[str, str]:
        """What the app is told."""
        sidecar = f"{self.address}:{self._ports.outbound}"
        by_name = self._is_transparent
        return self._copy.environment(
            listen=f"{self.address}:{self._ports.app}",
            peers={
                name: [f"{name}:{self._ports.app}" if by_name else sidecar]
                for name in self._copy.service.calls
            },
        )

    def start_app(self) -> None:
        """Start the app and return at once."""
        if self._place.is_here:
            check_free(self.address, self._ports.app, "app")
        self.app = self._launcher.start(self._copy, self.environment)

    def start_sidecar(self) -> None:
        """Start the sidecar and return at once."""
        if self._place.is_here:
            for word, port in self._ports.of_sidecar.items():
                check_free(self.address, port, word)
        self.sidecar.start()

    def stop(self) -> None:
        """Stop both, the app first: it may still need its sidecar."""
        if self.app is not None:
            self.app.stop()
        self.sidecar.stop()


def check_order(order: str) -> None:
    """Refuse an order that nobody knows."""
    if order not in ORDERS:
        raise InvalidValue(f"unknown start_order {order!r}; there are {', '.join(ORDERS)}")


def proxy(node: str, service: str, place: Place, settings: ControlPlaneSettings, directory: Path) -> Proxy:
    """Return the proxy of a node, not started: it knows who it is, and where the control plane is."""
    control_plane, admin = settings.xds_socket, directory / f"{node}.sock"
    words = {
        "layered_runtime": report_spans_soon(),
        "stats_config": _histograms(),
        "stats_flush_interval": "0.5s",
    }
    if settings.discovery == "files":
        files = Path(settings.directory) / "xds" / node
        clusters = {"clusters": [grpc_cluster(CONTROL_PLANE, control_plane)]}
        made = file_bootstrap(node, service, admin=admin, directory=files, static_resources=clusters, **words)
    else:
        made = bootstrap(
            node, service, admin=admin, control_plane=control_plane, discovery=settings.discovery, **words
        )
    made = with_metrics(made, admin, place.address, settings.ports.metrics)
    return Proxy(node, made, directory, enter=place.enter)


def report_spans_soon(*, flush_interval_s: float = 0.2) -> Json:
    """Return a bootstrap's ``layered_runtime``: spans go out soon, not after five of them or five seconds."""
    keys = {
        "tracing.opentelemetry.flush_interval_ms": round(flush_interval_s * 1000),
        "tracing.opentelemetry.min_flush_spans": 1,
    }
    return {"layers": [{"name": "tracing", "static_layer": keys}]}


def _histograms() -> Json:
    return {
        "histogram_bucket_settings": [
            {"match": {"safe_regex": {"regex": ".*"}}, "buckets": list(_BUCKETS_MS)}
        ]
    }
