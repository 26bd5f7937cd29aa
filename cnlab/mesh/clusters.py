"""Envoy's clusters, and who is behind each: pure functions.

A service has a cluster for each of its versions and one for all of them, whether a route uses it or not: so a
route never names a cluster that is not there yet.

See: Istio's names of clusters, https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from cnlab.mesh.auth import mtls
from cnlab.mesh.configuration import Configuration
from cnlab.mesh.pilot import resources
from cnlab.mesh.pilot.registry import Endpoint, Service
from cnlab.mesh.pilot.resources import ADS, Json
from cnlab.mesh.settings import Surroundings

PASSTHROUGH = "PassthroughCluster"
_UNLIMITED = 2**32 - 1
_LIMITS = ("max_connections", "max_pending_requests", "max_requests", "max_retries")


def cluster_name(service: str, version: str = "", port: int = 9080) -> str:
    """Return the name of the cluster for one version of a service, or for all."""
    return f"outbound|{port}|{version}|{service}"


def clusters(configuration: Configuration) -> list[Json]:
    """Return the clusters that each sidecar has: for each service one of all versions and one a version."""
    made = []
    for service, versions in configuration.services.items():
        words = cluster_words(service, configuration)
        names = [cluster_name(service, version, configuration.port) for version in ("", *versions)]
        made += [resources.cluster(name, **words) for name in names]
    made += [
        external_cluster(host, ends, configuration.port) for host, ends in configuration.external.items()
    ]
    return made


def passthrough_clusters(surroundings: Surroundings) -> list[Json]:
    """Return the cluster of all that is intercepted and for no host we know: it goes where it was going."""
    return [resources.original_dst_cluster(PASSTHROUGH)] if surroundings.is_transparent else []


def cluster_words(service: str, configuration: Configuration) -> Json:
    """Return what the clusters of a service say besides their name.

    As in Istio nothing is limited unless somebody asks for it; Envoy's default is 1024 of each and 3 retries.
    """
    said = configuration.of(service).cluster
    asked = dict(said.get("circuit_breakers", {}))
    budget = asked.get("retry_budget")
    if budget and isinstance(budget.get("budget_percent"), int | float):
        asked["retry_budget"] = {**budget, "budget_percent": {"value": budget["budget_percent"]}}
    limits = {word: _UNLIMITED for word in _LIMITS if not (budget and word == "max_retries")}
    words: Json = {"circuit_breakers": {"thresholds": [{**limits, "track_remaining": True, **asked}]}}
    for ours, envoys in (
        ("connect_timeout", "connect_timeout"),
        ("outlier_detection", "outlier_detection"),
        ("health_checks", "health_checks"),
        ("load_balancing", "lb_policy"),
    ):
        if ours in said:
            words[envoys] = said[ours]
    if "max_requests_per_connection" in said:
        words |= _http_options(max_requests_per_connection=said["max_requests_per_connection"])
    if configuration.is_tls_to(service):
        words["transport_socket"] = mtls.upstream_tls([service], ADS)
    return words


def _http_options(**words: Any) -> Json:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    explicit: Json = {"http_protocol_options": {}}
    options = resources.typed(name, common_http_protocol_options=words, explicit_http_config=explicit)
    return {"typed_extension_protocol_options": {name: options}}


def external_cluster(host: str, endpoints: Iterable[str], port: int) -> Json:
    """Return the cluster of a host that is not of the mesh: without TLS of ours, without EDS."""
    pairs = [(address, int(number)) for address, _, number in (one.rpartition(":") for one in endpoints)]
    kind = "STATIC" if all(_is_address(address) for address, _ in pairs) else "STRICT_DNS"
    return {**resources.static_cluster(cluster_name(host, "", port), pairs), "type": kind}


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1024)
def local_cluster(address: str, port: int) -> Json:
    """Return the cluster of the app beside the sidecar."""
    return resources.static_cluster(f"inbound|{port}||", [(address, port)])


def assignments(
    configuration: Configuration, services: Mapping[str, Service], surroundings: Surroundings
) -> list[Json]:
    """Return who is behind each cluster: the sidecars before the instances that are ready."""
    made = []
    for name, versions in configuration.services.items():
        service = services.get(name, Service(name))
        for version in ("", *versions):
            members = [_meshed(endpoint, surroundings) for endpoint in service.subset(version)]
            made.append(resources.assignment(cluster_name(name, version, configuration.port), members))
    return made


def _meshed(endpoint: Endpoint, surroundings: Surroundings) -> Endpoint:
    return endpoint if surroundings.is_transparent else replace(endpoint, port=surroundings.ports.inbound)
