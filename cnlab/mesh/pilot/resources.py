"""Resources of Envoy's v3 API, as the dicts of Envoy's own documentation: pure functions that build them.

What is printed here can be pasted into a bootstrap file, and what stands in Envoy's documentation can be
pasted here. `packing.to_any` turns a dict into protobuf and finds the misspelled field.

See: https://www.envoyproxy.io/docs/envoy/latest/api-v3/api
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnlab.mesh.pilot.registry import Endpoint

Json = dict[str, Any]
Where = tuple[str, int] | Path
"""Where something listens: at an address and a port, or on a UNIX socket."""

TYPE = "type.googleapis.com/"
CDS = TYPE + "envoy.config.cluster.v3.Cluster"
EDS = TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = TYPE + "envoy.config.listener.v3.Listener"
RDS = TYPE + "envoy.config.route.v3.RouteConfiguration"
SDS = TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret"
ORDER = (CDS, EDS, LDS, RDS, SDS)
"""Make before break: clusters and their endpoints are there before a route sends to them."""
SHORT = {CDS: "CDS", EDS: "EDS", LDS: "LDS", RDS: "RDS", SDS: "SDS"}
KIND = {CDS: "cluster", EDS: "assignment", LDS: "listener", RDS: "route configuration", SDS: "secret"}
"""What a person calls a resource of the type."""

ADS: Json = {"ads": {}, "resource_api_version": "V3"}
"""A config source: it comes by the one stream that carries everything."""

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ORIGINAL_DST = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"


def typed(message: str, **fields: Any) -> Json:
    """Return a `typed_config`: the fields of a message, and which one it is."""
    return {"@type": TYPE + message, **fields}


def extension(name: str, message: str, **fields: Any) -> Json:
    """Return a named extension with its `typed_config`: a filter, a tracer, a transport socket."""
    return {"name": name, "typed_config": typed(message, **fields)}


def socket_address(address: str, port: int) -> Json:
    """Return an Address: TCP, by number."""
    return {"socket_address": {"address": address, "port_value": port}}


def address(where: Where) -> Json:
    """Return an Address: TCP, or the path of a UNIX socket."""
    return {"pipe": {"path": str(where)}} if isinstance(where, Path) else socket_address(*where)


def name_of(type_url: str, resource: Mapping[str, Any]) -> str:
    """Return what a resource is subscribed by: `cluster_name` of an assignment, else its `name`."""
    return str(resource.get("cluster_name" if type_url == EDS else "name", ""))


def file_source(path: Path) -> Json:
    """Return a config source: a file, read again whenever something is renamed in its directory."""
    watched = {"path": str(path), "watched_directory": {"path": str(path.parent)}}
    return {"path_config_source": watched, "resource_api_version": "V3"}


# Endpoints


def assignment(cluster: str, endpoints: Iterable[Endpoint], **fields: Any) -> Json:
    """Return a ClusterLoadAssignment: where the members of a cluster listen.

    Their locality says nothing to Envoy, but gRPC passes by members that have none, or one without a weight.
    """
    members = [lb_endpoint(one) for one in endpoints]
    here = {"locality": {}, "load_balancing_weight": 1, "lb_endpoints": members}
    return {"cluster_name": cluster, **({"endpoints": [here]} if members else {}), **fields}


def lb_endpoint(endpoint: Endpoint) -> Json:
    """Return one member; its weight and health are only said where they are not the usual."""
    member: Json = {"endpoint": {"address": socket_address(endpoint.address, endpoint.port)}}
    if endpoint.weight != 1:
        member["load_balancing_weight"] = endpoint.weight
    if endpoint.health != "HEALTHY":
        member["health_status"] = endpoint.health
    return member


# Clusters


def cluster(name: str, **fields: Any) -> Json:
    """Return a Cluster whose members come by EDS, under the same name."""
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ADS},
        "connect_timeout": "1s",
        **fields,
    }


def static_cluster(name: str, endpoints: Sequence[Where], **fields: Any) -> Json:
    """Return a Cluster that names its members itself."""
    members = [{"endpoint": {"address": address(one)}} for one in endpoints]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": members}]},
        **fields,
    }


def grpc_cluster(name: str, where: Where, **fields: Any) -> Json:
    """Return a Cluster of one member that speaks HTTP/2, as gRPC must."""
    options = typed(_HTTP_OPTIONS, explicit_http_config={"http2_protocol_options": {}})
    return static_cluster(name, [where], typed_extension_protocol_options={_HTTP_OPTIONS: options}, **fields)


def original_dst_cluster(name: str, **fields: Any) -> Json:
    """Return a Cluster that sends each connection where it was going before it was redirected."""
    return {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "1s",
        **fields,
    }


# Routes


def route_configuration(name: str, virtual_hosts: Sequence[Json], **fields: Any) -> Json:
    """Return a RouteConfiguration; what no virtual host has a domain for is answered with 404."""
    return {"name": name, "virtual_hosts": list(virtual_hosts), **fields}


def virtual_host(name: str, domains: Sequence[str], routes: Sequence[Json], **fields: Any) -> Json:
    """Return a VirtualHost: for requests whose Host is one of `domains`, the first route that matches."""
    return {"name": name, "domains": list(domains), "routes": list(routes), **fields}


def route(clusters: str | Mapping[str, int], match: Json | None = None, **action: Any) -> Json:
    """Return a Route to one cluster, or to several by weight; `action` takes the words of a RouteAction."""
    return {"match": match or {"prefix": "/"}, "route": {**_destination(clusters), **action}}


def _destination(clusters: str | Mapping[str, int]) -> Json:
    if isinstance(clusters, str):
        return {"cluster": clusters}
    weighted = [{"name": name, "weight": weight} for name, weight in clusters.items()]
    return {"weighted_clusters": {"clusters": weighted}}


# Listeners


def http_connection_manager(
    stat_prefix: str, routes: str | Json, filters: Sequence[Json] = (), **fields: Any
) -> Json:
    """Return the filter that makes requests of bytes; `routes` is a name, for RDS, or the dict itself."""
    source = (
        {"rds": {"route_config_name": routes, "config_source": ADS}}
        if isinstance(routes, str)
        else {"route_config": routes}
    )
    router = extension("envoy.filters.http.router", _ROUTER)
    return extension(
        "envoy.filters.network.http_connection_manager",
        _HCM,
        stat_prefix=stat_prefix,
        **source,
        http_filters=[*filters, router],
        **fields,
    )


def tcp_proxy(stat_prefix: str, cluster: str, **fields: Any) -> Json:
    """Return the network filter that passes bytes on, whatever they are."""
    return extension(
        "envoy.filters.network.tcp_proxy", _TCP_PROXY, stat_prefix=stat_prefix, cluster=cluster, **fields
    )


def listener(name: str, address: str, port: int, filter_chains: Sequence[Json], **fields: Any) -> Json:
    """Return a Listener; `filter_chains` have `filters`, and a `transport_socket` where there is TLS."""
    return {
        "name": name,
        "address": socket_address(address, port),
        "filter_chains": list(filter_chains),
        **fields,
    }


def outbound_listener(name: str, address: str, port: int, manager: Json, **fields: Any) -> Json:
    """Return the Listener that an app sends its requests to; the Host of each says where it goes."""
    return listener(name, address, port, [{"filters": [manager]}], traffic_direction="OUTBOUND", **fields)


def inbound_listener(
    name: str, address: str, port: int, filter_chains: Sequence[Json], **fields: Any
) -> Json:
    """Return the Listener before an app."""
    return listener(name, address, port, filter_chains, traffic_direction="INBOUND", **fields)


def virtual_listener(name: str, port: int, filter_chains: Sequence[Json], **fields: Any) -> Json:
    """Return a Listener for connections that iptables redirected; it asks the kernel where they were going.

    See: SO_ORIGINAL_DST in linux/netfilter_ipv4.h.
    """
    ask = extension("envoy.filters.listener.original_dst", _ORIGINAL_DST)
    return listener(name, "0.0.0.0", port, filter_chains, listener_filters=[ask], **fields)


def api_listener(name: str, manager: Json) -> Json:
    """Return the Listener of a proxyless gRPC client, which listens nowhere: `xds:///name` asks for it.

    See: gRFC A27, "xDS-Based Global Load Balancing".
    """
    return {"name": name, "api_listener": {"api_listener": manager["typed_config"]}}


# Secrets


def tls_certificate(name: str, certificate: str, private_key: str) -> Json:
    """Return a Secret: a certificate chain and its key, as PEM."""
    chain, key = {"inline_string": certificate}, {"inline_string": private_key}
    return {"name": name, "tls_certificate": {"certificate_chain": chain, "private_key": key}}


def validation_context(name: str, trusted: str, **fields: Any) -> Json:
    """Return a Secret: the roots, as PEM, that a peer's certificate must lead to."""
    return {"name": name, "validation_context": {"trusted_ca": {"inline_string": trusted}, **fields}}
