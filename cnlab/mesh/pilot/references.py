"""What a resource names: the assignment of its cluster, the clusters of its routes, its secrets.

A snapshot that has all of it is consistent. The order of sending follows from it too: nothing goes to a proxy
before what it names is there, and nothing is taken away that something there still names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cnlab.mesh.pilot.resources import CDS, EDS, RDS, SDS, TYPE

Reference = tuple[str, str]
_TCP_PROXY = TYPE + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def references(type_url: str, resource: Mapping[str, Any]) -> list[Reference]:
    """Return what a resource names, each once: (type URL, name)."""
    own: list[Reference] = []
    if type_url == CDS and resource.get("type") == "EDS":
        name = resource.get("eds_cluster_config", {}).get("service_name") or resource.get("name", "")
        own = [(EDS, name)]
    return list(dict.fromkeys([*own, *_within(resource)]))


def _within(value: Any) -> Iterator[Reference]:
    """Look through all of a resource for words that name another one."""
    if isinstance(value, Mapping):
        if "sds_config" in value:
            yield SDS, value.get("name", "")
        if value.get("@type") == _TCP_PROXY:
            yield from _of_action(value)
        if isinstance(rds := value.get("rds"), Mapping):
            yield RDS, rds.get("route_config_name", "")
        if isinstance(action := value.get("route"), Mapping):
            yield from _of_action(action)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _within(one)


def _of_action(action: Mapping[str, Any]) -> Iterator[Reference]:
    """The clusters to which a route, or a TCP proxy, sends."""
    if name := action.get("cluster"):
        yield CDS, name
    for one in (action.get("weighted_clusters") or {}).get("clusters", ()):
        yield CDS, one.get("name", "")
    for one in action.get("request_mirror_policies", ()):
        yield CDS, one.get("cluster", "")
