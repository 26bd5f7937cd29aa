"""Envoy's resources for each node, made of what people want and of what there is: pure functions.

    nodes(configuration, registry, workloads, surroundings) -> {node: {type URL: [resource, …]}}

All sidecars get the same `clusters`, endpoints and outbound `routes`; what is made here besides is listeners.
These are remembered: most changes leave them as they are, and they are the largest resources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from cnlab.mesh.auth import mtls
from cnlab.mesh.clusters import assignments, clusters, local_cluster, passthrough_clusters
from cnlab.mesh.configuration import GATEWAY, Configuration, Workload
from cnlab.mesh.mixer import policy, quota, rbac, telemetry, tracing
from cnlab.mesh.pilot import resources
from cnlab.mesh.pilot.bootstrap import CONTROL_PLANE
from cnlab.mesh.pilot.registry import Service
from cnlab.mesh.pilot.resources import ADS, CDS, EDS, LDS, RDS, Json
from cnlab.mesh.routes import (
    FAULT,
    FILTERS,
    INBOUND,
    INGRESS,
    OUTBOUND,
    inbound_routes,
    ingress_routes,
    outbound_routes,
)
from cnlab.mesh.settings import Surroundings

_ONE_SPELLING: Json = {
    "normalize_path": True,
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
}
"""Policies judge a path as the app will understand it: ``//admin`` and ``/x/../admin`` are ``/admin``."""


def nodes(
    configuration: Configuration,
    services: Mapping[str, Service],
    workloads: Iterable[Workload],
    surroundings: Surroundings,
) -> dict[str, dict[str, list[Json]]]:
    """Return the resources of each sidecar and of the gateway, but for secrets."""
    shared = {
        CDS: clusters(configuration) + passthrough_clusters(surroundings),
        EDS: assignments(configuration, services, surroundings),
    }
    routes: dict[str, Json] = {}
    inbound = {service: inbound_routes(service, configuration) for service in configuration.services}
    made = {}
    for workload in workloads:
        source = workload.service if _distinguishes_sources(configuration) else ""
        if source not in routes:
            routes[source] = outbound_routes(configuration, surroundings, source=source)
        local = local_cluster(workload.address, configuration.port)
        made[workload.name] = {
            CDS: [*shared[CDS], local],
            EDS: shared[EDS],
            LDS: [
                outbound_listener(workload.service, workload.address, surroundings),
                inbound_listener(
                    workload.service,
                    workload.address,
                    mtls.check_mode(configuration.mtls_of(workload.service)),
                    surroundings,
                ),
            ],
            RDS: [routes[source], inbound[workload.service]],
        }
    made[GATEWAY] = {**shared, LDS: [ingress_listener(surroundings)], RDS: [ingress_routes(configuration)]}
    return made


def _distinguishes_sources(configuration: Configuration) -> bool:
    return any("source" in rule.match for one in configuration.settings.values() for rule in one.rules)


@lru_cache(maxsize=1024)
def outbound_listener(service: str, address: str, surroundings: Surroundings) -> Json:
    """Return the listener that the app sends its requests to."""
    manager = _manager(OUTBOUND, service, surroundings, [_fault_filter()])
    port = surroundings.ports.outbound
    if surroundings.is_transparent:  # connections come redirected, to whatever address of the pod
        chains = [{"filters": [manager]}]
        return resources.virtual_listener(OUTBOUND, port, chains, traffic_direction="OUTBOUND")
    return resources.outbound_listener(OUTBOUND, address, port, manager)


@lru_cache(maxsize=16)
def ingress_listener(surroundings: Surroundings) -> Json:
    """Return the listener of the gateway."""
    manager = _manager(INGRESS, GATEWAY, surroundings, [_fault_filter()], use_remote_address=True)
    return resources.outbound_listener(INGRESS, surroundings.gateway, surroundings.ports.gateway, manager)


@lru_cache(maxsize=1024)
def inbound_listener(service: str, address: str, mode: mtls.Mode, surroundings: Surroundings) -> Json:
    """Return the listener before the app: only it sees who calls."""
    filters = [
        *rbac_filters_disabled(),
        {**policy.ext_authz_filter(CONTROL_PLANE), "disabled": True},
        quota.local_ratelimit_filter(),
        quota.ratelimit_filter(CONTROL_PLANE),
    ]
    manager = _manager(
        INBOUND,
        service,
        surroundings,
        filters,
        forward_client_cert_details="SANITIZE_SET",
        set_current_client_cert_details={"uri": True},
        **_ONE_SPELLING,
    )
    return resources.inbound_listener(
        INBOUND,
        "0.0.0.0" if surroundings.is_transparent else address,
        surroundings.ports.inbound,
        mtls.inbound_filter_chains(mode, [manager], ADS),
        listener_filters=mtls.inbound_listener_filters(mode),
    )


def rbac_filters_disabled() -> list[Json]:
    """Return the RBAC filters without rules, which let everything pass."""
    return [resources.extension(name, f"{FILTERS}.rbac.v3.RBAC") for name in rbac.FILTER_NAMES]


def _fault_filter() -> Json:
    return resources.extension(FAULT, f"{FILTERS}.fault.v3.HTTPFault")


def _manager(
    prefix: str, service: str, surroundings: Surroundings, filters: list[Json], **words: Any
) -> Json:
    """Return the HTTP connection manager of a listener, its routes by RDS; it reports and traces."""
    if surroundings.has_access_log:
        reporter = "destination" if prefix == INBOUND else "source"
        words["access_log"] = [telemetry.access_logger(CONTROL_PLANE, reporter=reporter)]
    if surroundings.has_tracing:
        words["tracing"] = tracing.tracer(service, CONTROL_PLANE)
    return resources.http_connection_manager(
        prefix, prefix, filters, generate_request_id=True, strip_any_host_port=True, **words
    )
