"""What there is to draw of a live mesh, asked of those who know.

Each sidecar is asked for its stream to the control plane and for whom it has called, the control plane for
what was acknowledged and refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from cnlab.errors import CnlabError
from cnlab.widgets.service_layout import columns_of

TYPES = ("CDS", "EDS", "LDS", "RDS", "SDS")


@dataclass(frozen=True, slots=True)
class Pod:
    """A service's instance and its sidecar; a gateway is a sidecar with no service beside it."""

    name: str
    service: str
    version: str
    is_running: bool = True  # the sidecar
    has_stream: bool = True  # to the control plane
    versions: Mapping[str, str] = field(default_factory=dict)  # by type of resource, as acknowledged
    nacks: int = 0  # refusals that stand: of what it is offered now

    @property
    def is_gateway(self) -> bool:
        """Whether nothing stands behind it."""
        return not self.version


@dataclass(frozen=True, slots=True)
class MeshFacts:
    """What there is to draw; `calls` counts requests by the names of both pods, the caller first."""

    control_plane_pid: int | None  # None: it is not running
    pods: tuple[Pod, ...]
    calls: Mapping[tuple[str, str], int]

    def received(self, pod: Pod) -> int:
        """How many requests came to a pod from others."""
        return sum(count for (_, to), count in self.calls.items() if to == pod.name)


def read_mesh(mesh: Any) -> MeshFacts:
    """Ask a `cnlab.mesh.mesh.Mesh` for what can be drawn of it; also without a control plane."""
    proxies = {mesh.gateway.name: mesh.gateway, **mesh.sidecars}
    owners = {instance.address: instance.name for instance in mesh.instances}
    versions, nacks = mesh.versions, _refused(mesh)
    calls: dict[tuple[str, str], int] = {}
    pods = {}
    labels = {instance.name: (instance.service, instance.version) for instance in mesh.instances}
    for name, proxy in proxies.items():
        told = _ask(proxy)
        service, version = labels.get(name, (name, ""))
        pods[name] = Pod(
            name,
            service,
            version,
            is_running=told is not None,
            has_stream=told is not None and told.has_stream,
            versions={kind: str(version) for kind, version in versions.get(name, {}).items()},
            nacks=nacks.get(name, 0),
        )
        for address, count in told.requests.items() if told else ():
            if count and address in owners:
                calls[name, owners[address]] = count
    is_up = mesh.control_plane.is_running
    order = [name for column in columns_of(calls) for name in column]
    arranged = sorted(pods.values(), key=lambda pod: order.index(pod.name) if pod.name in order else 99)
    return MeshFacts(mesh.control_plane.pid if is_up else None, tuple(arranged), calls)


@dataclass(frozen=True, slots=True)
class _Told:
    """What a proxy says of itself: whether it has a stream, and whom it has called, by address."""

    has_stream: bool
    requests: Mapping[str, int]


def _ask(proxy: Any) -> _Told | None:
    """Return None if it is not there, or goes while it is asked."""
    if not proxy.is_running:
        return None
    try:
        stats = proxy.stats("control_plane.connected_state")
        return _Told(bool(stats.get("control_plane.connected_state")), requests_by_host(proxy.clusters()))
    except (CnlabError, OSError, HTTPException):
        return None


def _refused(mesh: Any) -> dict[str, int]:
    """Count by node what it has refused of that which it is offered now; older mistakes are taken back."""
    try:
        nodes = mesh.control_plane.status()["nodes"]
    except CnlabError:  # only the control plane knows, and it is dead
        return {}
    return {name: len(node["refusals"]) for name, node in nodes.items()}


def requests_by_host(clusters: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Read from Envoy's ``/clusters`` how many requests went to each address of an outbound cluster.

    See: "Administration interface", ``GET /clusters``, in Envoy's documentation.
    """
    counts: dict[str, int] = {}
    for cluster in clusters:
        for host in cluster.get("host_statuses", []) if cluster["name"].startswith("outbound|") else []:
            address = str(host["address"]["socket_address"]["address"])
            total = next(
                (int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_total"), 0
            )
            counts[address] = counts.get(address, 0) + total
    return counts
