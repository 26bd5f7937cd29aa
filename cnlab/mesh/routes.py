"""Envoy's routes, made of the rules that people gave: pure functions.

What can be switched on for a service (a policy, a limit) is a filter that is there and idle until its inbound
*route* has words for it: the next request is subject to it, and no connection has to be closed.
"""

from __future__ import annotations

from cnlab.mesh.clusters import PASSTHROUGH, cluster_name
from cnlab.mesh.configuration import Configuration, Rule, Settings
from cnlab.mesh.mixer import policy, quota, rbac
from cnlab.mesh.pilot import resources
from cnlab.mesh.pilot.resources import Json
from cnlab.mesh.settings import Surroundings

OUTBOUND, INBOUND, INGRESS = "outbound", "inbound", "ingress"
"""Names of listeners, of their routes, and prefixes of their statistics."""
FAULT = "envoy.filters.http.fault"
FILTERS = "envoy.extensions.filters.http"
FLAGS_HEADER = "x-response-flags"


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
        everything["typed_per_filter_config"] = {FAULT: http_fault(fault)}
    return resources.route_configuration(INGRESS, [*hosts, everything], **_flags())


def virtual_host(service: str, configuration: Configuration, *, source: str = "") -> Json:
    """Return the routes to one service: rules with a match first, in their order, then the default."""
    settings = configuration.of(service)
    rules = [rule for rule in settings.rules if rule.match.get("source", source) == source]
    routes = [route(rule, service, configuration.port) for rule in (*rules, settings.default)]
    domains = [service, f"{service}.default.svc.cluster.local"]
    made = resources.virtual_host(service, domains, routes)
    if settings.fault:
        made["typed_per_filter_config"] = {FAULT: http_fault(settings.fault)}
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
        made["typed_per_filter_config"] = {FAULT: http_fault(rule.fault)}
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
    return resources.typed(f"{FILTERS}.fault.v3.HTTPFault", **made)


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
