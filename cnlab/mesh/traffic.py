"""Envoy's resources for each node, made of what people want and of what there is: pure functions.

    nodes(configuration, registry, workloads, surroundings) -> {node: {type URL: [resource, …]}}

All sidecars get the same clusters, endpoints and outbound routes. A service has a cluster for each of its
versions and one for all of them, whether a route uses it or not: so a route never names a cluster that is not
there yet. What can be switched on for a service (a policy, a limit) is a filter that is there and idle until
its inbound *route* has words for it: the next request is subject to it, and no connection has to be closed.

Listeners are remembered: most changes leave them as they are, and they are the largest resources.

See: Istio's names of clusters, https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from cnlab.mesh.auth import mtls
from cnlab.mesh.configuration import GATEWAY, Configuration, Rule, Settings, Workload
from cnlab.mesh.mixer import policy, quota, rbac, telemetry, tracing
from cnlab.mesh.pilot import resources
from cnlab.mesh.pilot.bootstrap import CONTROL_PLANE
from cnlab.mesh.pilot.registry import Endpoint, Service
from cnlab.mesh.pilot.resources import ADS, CDS, EDS, LDS, RDS, Json
from cnlab.mesh.settings import Surroundings

OUTBOUND, INBOUND, INGRESS = "outbound", "inbound", "ingress"
"""Names of listeners, of their routes, and prefixes of their statistics."""
PASSTHROUGH = "PassthroughCluster"
FLAGS_HEADER = "x-response-flags"
_FAULT = "envoy.filters.http.fault"
_FILTERS = "envoy.extensions.filters.http"
_UNLIMITED = 2**32 - 1
_ONE_SPELLING: Json = {
    "normalize_path": True,
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
}
"""Policies judge a path as the app will understand it: ``//admin`` and ``/x/../admin`` are ``/admin``."""
_LIMITS = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
_NO_ENDPOINTS: dict[str, Service] = {}


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


# Clusters and endpoints


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


# Routes


def outbound_routes(configuration: Configuration, surroundings: Surroundings, *, source: str = "") -> Json:
    """Return where requests of an app go, by the Host that they name."""
    hosts = [virtual_host(service, configuration, source=source) for service in configuration.services]
    hosts += [_external_host(host, configuration.port) for host in configuration.external]
    if surroundings.is_transparent:
        hosts.append(resources.virtual_host(PASSTHROUGH, ["*"], [resources.route(PASSTHROUGH)]))
    return resources.route_configuration(OUTBOUND, hosts, **_flags())


def ingress_routes(configuration: Configuration) -> Json:
    """Return where requests from outside go: services by their name, all else by the gateway's rules."""
    hosts = [virtual_host(service, configuration) for service in configuration.services]
    entry = configuration.entry
    if configuration.ingress:
        routes = [route(rule, entry, configuration.port) for rule in configuration.ingress]
    else:
        routes = virtual_host(entry, configuration)["routes"]
    everything = resources.virtual_host(INGRESS, list(configuration.ingress_hosts), routes)
    if not configuration.ingress and (fault := configuration.of(entry).fault):
        everything["typed_per_filter_config"] = {_FAULT: http_fault(fault)}
    return resources.route_configuration(INGRESS, [*hosts, everything], **_flags())


def virtual_host(service: str, configuration: Configuration, *, source: str = "") -> Json:
    """Return the routes to one service: rules with a match first, in their order, then the default."""
    settings = configuration.of(service)
    rules = [rule for rule in settings.rules if rule.match.get("source", source) == source]
    routes = [route(rule, service, configuration.port) for rule in (*rules, settings.default)]
    domains = [service, f"{service}.default.svc.cluster.local"]
    made = resources.virtual_host(service, domains, routes)
    if settings.fault:
        made["typed_per_filter_config"] = {_FAULT: http_fault(settings.fault)}
    return made


def _external_host(host: str, port: int) -> Json:
    return resources.virtual_host(host, [host], [resources.route(cluster_name(host, "", port))])


def _flags() -> Json:
    """Let a response say what Envoy thought of it: "-", or words such as UF and UO."""
    return {
        "response_headers_to_add": [
            {
                "header": {"key": FLAGS_HEADER, "value": "%RESPONSE_FLAGS%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ]
    }


def route(rule: Rule, service: str, port: int) -> Json:
    """Return Envoy's route for one rule."""
    made: Json = {"match": route_match(rule.match)}
    if rule.direct_response:
        made["direct_response"] = _direct_response(rule.direct_response)
    elif rule.redirect:
        made["redirect"] = _redirect(rule.redirect)
    else:
        made["route"] = route_action(rule, rule.to_service or service, port)
    if rule.fault:
        made["typed_per_filter_config"] = {_FAULT: http_fault(rule.fault)}
    return made


def route_match(match: Json) -> Json:
    """Return Envoy's RouteMatch for our words."""
    made: Json = {word: match[word] for word in ("prefix", "path") if word in match}
    if "safe_regex" in match:
        made["safe_regex"] = {"regex": match["safe_regex"]}
    made = made or {"prefix": "/"}
    headers = [_header(name, value) for name, value in match.get("headers", {}).items()]
    if "method" in match:
        headers.append(_header(":method", match["method"]))
    return {**made, "headers": headers} if headers else made


def _header(name: str, value: str | Json) -> Json:
    if isinstance(value, str):
        return {"name": name, "string_match": {"exact": value}}
    ((word, wanted),) = value.items()
    if word == "present":
        return {"name": name, "present_match": bool(wanted)}
    return {"name": name, "string_match": {"safe_regex": {"regex": wanted}} if word == "regex" else value}


def route_action(rule: Rule, service: str, port: int) -> Json:
    """Return Envoy's RouteAction: the clusters with their weights, and how patient to be."""
    made: Json = {}
    weights = {version: weight for version, weight in rule.weights.items() if weight}
    if len(weights) > 1:
        shares = [{"name": cluster_name(service, v, port), "weight": weight} for v, weight in weights.items()]
        made["weighted_clusters"] = {"clusters": shares}
    else:
        made["cluster"] = cluster_name(service, next(iter(weights), ""), port)
    if rule.timeout:
        made["timeout"] = rule.timeout
    if rule.retries:
        made["retry_policy"] = rule.retries
    if rule.mirror:
        mirrored = cluster_name(rule.mirror["service"], rule.mirror["to"], port)
        share = {"default_value": percentage(rule.mirror["percent"])}
        made["request_mirror_policies"] = [{"cluster": mirrored, "runtime_fraction": share}]
    if "prefix" in rule.rewrite:
        made["prefix_rewrite"] = rule.rewrite["prefix"]
    if "authority" in rule.rewrite:
        made["host_rewrite_literal"] = rule.rewrite["authority"]
    return made


def _direct_response(words: Json) -> Json:
    body = {"body": {"inline_string": words["body"]}} if "body" in words else {}
    return {"status": words.get("status", 200), **body}


def _redirect(words: Json) -> Json:
    codes = {
        301: "MOVED_PERMANENTLY",
        302: "FOUND",
        303: "SEE_OTHER",
        307: "TEMPORARY_REDIRECT",
        308: "PERMANENT_REDIRECT",
    }
    names = (("path", "path_redirect"), ("host", "host_redirect"), ("prefix", "prefix_rewrite"))
    made = {envoys: words[ours] for ours, envoys in names if ours in words}
    return {**made, "response_code": codes.get(words.get("code", 301), words.get("code"))}


def percentage(value: float) -> Json:
    """Return Envoy's FractionalPercent."""
    for per, denominator in ((1, "HUNDRED"), (100, "TEN_THOUSAND")):
        if value * per == int(value * per):
            return {"numerator": int(value * per), "denominator": denominator}
    return {"numerator": round(value * 10_000), "denominator": "MILLION"}


def http_fault(fault: Json) -> Json:
    """Return Envoy's HTTPFault for our words."""
    made: Json = {}
    for kind, words in fault.items():
        word = "fixed_delay" if kind == "delay" else "http_status"
        made[kind] = {word: words[word], "percentage": percentage(words.get("percentage", 100))}
    return resources.typed(f"{_FILTERS}.fault.v3.HTTPFault", **made)


def inbound_routes(service: str, configuration: Configuration) -> Json:
    """Return the one route to the app, and what a request must pass before."""
    settings = configuration.of(service)
    to_app = resources.route(f"inbound|{configuration.port}||", timeout="0s")  # the caller's route has one
    if settings.rate_limit:
        to_app["route"]["rate_limits"] = quota.rate_limits(service, quota.Limit(**settings.rate_limit))
    enabled = _enabled_filters(service, settings, configuration.port)
    if enabled:
        to_app["typed_per_filter_config"] = enabled
    return resources.route_configuration(INBOUND, [resources.virtual_host(INBOUND, ["*"], [to_app])])


def _enabled_filters(service: str, settings: Settings, port: int) -> Json:
    enabled: Json = {}
    if settings.rbac:
        enabled |= rbac.rbac_per_route(list(settings.rbac), service, port=port)
    if settings.rego:
        enabled[policy.FILTER] = policy.ext_authz_per_route(service)
    if settings.local_rate_limit:
        enabled[quota.LOCAL_FILTER] = quota.local_ratelimit(**settings.local_rate_limit)
    return enabled


# Listeners


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
    return [resources.extension(name, f"{_FILTERS}.rbac.v3.RBAC") for name in rbac.FILTER_NAMES]


def _fault_filter() -> Json:
    return resources.extension(_FAULT, f"{_FILTERS}.fault.v3.HTTPFault")


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
