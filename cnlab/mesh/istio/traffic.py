"""VirtualService and DestinationRule: where requests go, and how connections are kept.

Istio's defaults are applied where they differ from Envoy's, so that a manifest does here what it does there.

See: Istio, "Virtual Service", "Destination Rule".
"""

from typing import Any

from cnlab.errors import InvalidValue
from cnlab.mesh.istio.names import Json, Known, Objects, Subject, needed, of_kind
from cnlab.mesh.istio.plan import Call
from cnlab.mesh.istio.subset import seconds

MESH = "mesh"  # the reserved name for "all sidecars" among gateways
NO_TIMEOUT = "0s"  # Envoy's default is 15 s
RETRIES: Json = {"num_retries": 2, "retry_on": "connect-failure,refused-stream,unavailable,cancelled"}
"""Istio retries twice unless told otherwise (503 was among the reasons until 1.24); Envoy does not."""
LOAD_BALANCER = "LEAST_REQUEST"  # Envoy's default is ROUND_ROBIN
CONNECT_TIMEOUT = "10s"  # Envoy's default is 5 s

_POOL = {
    "maxConnections": "max_connections",
    "http1MaxPendingRequests": "max_pending_requests",
    "http2MaxRequests": "max_requests",
    "maxRetries": "max_retries",
}


def clusters(objects: Objects, known: Known) -> dict[Subject, list[Call]]:
    """Translate DestinationRules."""
    found: dict[Subject, list[Call]] = {}
    for where, spec in of_kind(objects, "DestinationRule"):
        service = known.service(needed(spec, "host", f"{where}: spec"), f"{where}: spec.host")
        if ("cluster", service) in found:
            raise InvalidValue(f"{where}: {service} has a DestinationRule already")
        words = _cluster(spec.get("trafficPolicy", {}))
        found["cluster", service] = [Call("cluster", (service,), words, where)]
    subsets(objects, known)
    return found


def _cluster(policy: Json) -> Json:
    words: Json = {"load_balancing": policy.get("loadBalancer", {}).get("simple", LOAD_BALANCER)}
    if words["load_balancing"] == "UNSPECIFIED":
        words["load_balancing"] = LOAD_BALANCER
    pool = policy.get("connectionPool", {})
    tcp, http = pool.get("tcp", {}), pool.get("http", {})
    words["connect_timeout"] = duration(tcp.get("connectTimeout", CONNECT_TIMEOUT))
    limits = {envoys: {**tcp, **http}[ours] for ours, envoys in _POOL.items() if ours in {**tcp, **http}}
    if limits:
        words["circuit_breakers"] = limits
    if "maxRequestsPerConnection" in http:
        words["max_requests_per_connection"] = http["maxRequestsPerConnection"]
    if "outlierDetection" in policy:
        words["outlier_detection"] = _outliers(policy["outlierDetection"])
    if mode := policy.get("tls", {}).get("mode"):
        words["tls"] = mode.lower()
    return words


def _outliers(settings: Json) -> Json:
    """Return Envoy's words; the success rate, which Envoy watches too, does not eject in Istio."""
    words: Json = {"enforcing_success_rate": 0}
    for ours, envoys in (
        ("consecutive5xxErrors", "consecutive_5xx"),
        ("consecutiveGatewayErrors", "consecutive_gateway_failure"),
    ):
        if ours in settings:
            words |= {envoys: settings[ours], f"enforcing_{envoys}": 100 if settings[ours] else 0}
    for ours, envoys in (("interval", "interval"), ("baseEjectionTime", "base_ejection_time")):
        if ours in settings:
            words[envoys] = duration(settings[ours])
    if "maxEjectionPercent" in settings:
        words["max_ejection_percent"] = settings["maxEjectionPercent"]
    return words


def subsets(objects: Objects, known: Known) -> dict[tuple[str, str], str]:
    """Return the version that each subset of each service means, from the DestinationRules."""
    found = {}
    for where, spec in of_kind(objects, "DestinationRule"):
        service = known.service(spec["host"], f"{where}: spec.host")
        for number, subset in enumerate(spec.get("subsets", [])):
            path = f"{where}: spec.subsets[{number}]"
            version = needed(needed(subset, "labels", path), "version", f"{path}.labels")
            if version not in known.services[service]:
                versions = ", ".join(known.services[service])
                raise InvalidValue(
                    f"{path}.labels.version: {service} has no {version!r}; there are {versions}"
                )
            found[service, needed(subset, "name", path)] = version
    return found


def routes(objects: Objects, known: Known) -> dict[Subject, list[Call]]:
    """Translate those VirtualServices that are for sidecars."""
    found: dict[Subject, list[Call]] = {}
    for where, spec in of_kind(objects, "VirtualService"):
        if MESH not in spec.get("gateways", [MESH]):
            continue
        rules = list(rules_of(where, spec, objects, known))
        for host in needed(spec, "hosts", f"{where}: spec"):
            service = known.service(host, f"{where}: spec.hosts")
            if ("route", service) in found:
                raise InvalidValue(f"{where}: {service} has a VirtualService for sidecars already")
            found["route", service] = [_call(service, rule, origin) for origin, rule in rules]
    return found


def _call(service: str, rule: Json, origin: str) -> Call:
    words = dict(rule)
    if words.get("service", service) != service:
        words["to_service"] = words["service"]
    words.pop("service", None)
    return Call("route", (service,), words, origin)


def rules_of(where: str, spec: Json, objects: Objects, known: Known) -> list[tuple[str, Json]]:
    """Return the rules of a VirtualService in `Mesh.route`'s words, with ``service``, each with its origin.

    Who matches none of the rules gets 404, as in Istio.
    """
    rules: list[tuple[str, Json]] = []
    versions = subsets(objects, known)
    for number, entry in enumerate(needed(spec, "http", f"{where}: spec")):
        path = f"{where}: spec.http[{number}]"
        if rules and "match" not in rules[-1][1]:
            raise InvalidValue(f"{path}: never reached, the rule before it has no match and takes all")
        words = _rule(path, entry, versions, known)
        origin = f"{where} http[{number}]"
        matches = [_match(f"{path}.match[{i}]", one, known) for i, one in enumerate(entry.get("match", []))]
        rules += [(origin, {"match": match, **words}) for match in matches] or [(origin, words)]
    if rules and "match" in rules[-1][1]:
        rules.append((f"{where}: no rule matches", {"direct_response": {"status": 404}}))
    return rules


def _match(path: str, entry: Json, known: Known) -> Json:
    match: Json = {}
    if "uri" in entry:
        words = {"exact": "path", "prefix": "prefix", "regex": "safe_regex"}
        ((how, text),) = entry["uri"].items()
        match[words[how]] = text
    if "method" in entry:
        match["method"] = entry["method"]["exact"]
    if "headers" in entry:
        match["headers"] = {name.lower(): text.get("exact", text) for name, text in entry["headers"].items()}
    if "sourceLabels" in entry:
        match["source"] = known.service(entry["sourceLabels"]["app"], f"{path}.sourceLabels.app")
    if not match:
        raise InvalidValue(f"{path} is empty: leave match out for a rule that takes all")
    return match


def _rule(path: str, entry: Json, versions: dict[tuple[str, str], str], known: Known) -> Json:
    if "redirect" in entry:
        return {"redirect": _renamed(entry["redirect"], uri="path", authority="host", redirectCode="code")}
    if "directResponse" in entry:
        answer = entry["directResponse"]
        body = {"body": answer["body"]["string"]} if "body" in answer else {}
        return {"direct_response": {"status": needed(answer, "status", f"{path}.directResponse"), **body}}
    words = _targets(path, needed(entry, "route", path), versions, known)
    words["timeout"] = duration(entry.get("timeout", NO_TIMEOUT))
    words["retries"] = _retries(f"{path}.retries", entry["retries"]) if "retries" in entry else RETRIES
    if "fault" in entry:
        words["fault"] = _fault(f"{path}.fault", entry["fault"])
    if "mirror" in entry:
        words["mirror"] = _mirror(path, entry, versions, known)
    if "rewrite" in entry:
        words["rewrite"] = _renamed(entry["rewrite"], uri="prefix", authority="authority")
        if "uri" in entry["rewrite"] and any("regex" in one.get("uri", {}) for one in entry.get("match", [])):
            raise InvalidValue(f"{path}.rewrite.uri is not supported beside match.uri.regex")
    return words


def _renamed(data: Json, **ours: str) -> Json:
    return {word: data[its] for its, word in ours.items() if its in data}


def _targets(path: str, route: list[Json], versions: dict[tuple[str, str], str], known: Known) -> Json:
    """Return service and weights of a rule's destinations, which must be of one service."""
    targets = [
        _target(
            f"{path}.route[{i}].destination",
            needed(one, "destination", f"{path}.route[{i}]"),
            versions,
            known,
        )
        for i, one in enumerate(route)
    ]
    services = {service for service, _ in targets}
    if len(services) != 1:
        raise InvalidValue(f"{path}.route: destinations of one service are supported, not {sorted(services)}")
    words: Json = {"service": services.pop()}
    if len(targets) == 1:
        return words | ({"to": targets[0][1]} if targets[0][1] else {})
    if not all(version for _, version in targets):
        raise InvalidValue(f"{path}.route: each destination needs a subset where there are several")
    weights: dict[str, int] = {}
    for (_, version), one in zip(targets, route, strict=True):
        weights[version] = weights.get(version, 0) + one.get("weight", 0)
    if sum(weights.values()) != 100:
        raise InvalidValue(f"{path}.route: the weights sum to {sum(weights.values())}, not to 100")
    return words | {"weights": weights}


def _target(
    path: str, destination: Json, versions: dict[tuple[str, str], str], known: Known
) -> tuple[str, str]:
    """Return service and version ("" for all) of a destination."""
    service = known.service(needed(destination, "host", path), f"{path}.host")
    known.check_port(destination, path)
    subset = destination.get("subset")
    if subset and (service, subset) not in versions:
        names = ", ".join(name for host, name in versions if host == service) or "none"
        raise InvalidValue(
            f"{path}.subset: no DestinationRule has {subset!r} of {service}; there are: {names}"
        )
    return service, versions[service, subset] if subset else ""


def _mirror(path: str, entry: Json, versions: dict[tuple[str, str], str], known: Known) -> Json:
    service, version = _target(f"{path}.mirror", entry["mirror"], versions, known)
    percent = entry.get("mirrorPercentage", {}).get("value", 100)
    return {"service": service, "percent": percent, **({"to": version} if version else {})}


def _retries(path: str, retries: Json) -> Json:
    words: Json = {**RETRIES, "num_retries": needed(retries, "attempts", path)}
    if "perTryTimeout" in retries:
        words["per_try_timeout"] = duration(retries["perTryTimeout"])
    if "retryOn" in retries:
        reasons = [reason.strip() for reason in retries["retryOn"].split(",") if reason.strip()]
        codes = [int(reason) for reason in reasons if reason.isdigit()]
        reasons = [reason for reason in reasons if not reason.isdigit()]
        if codes:
            reasons += ["retriable-status-codes"] * ("retriable-status-codes" not in reasons)
            words["retriable_status_codes"] = codes
        words["retry_on"] = ",".join(reasons)
    return words


def _fault(path: str, fault: Json) -> Json:
    words: Json = {}
    for kind, its, ours in (("delay", "fixedDelay", "fixed_delay"), ("abort", "httpStatus", "http_status")):
        if kind in fault:
            value: Any = needed(fault[kind], its, f"{path}.{kind}")
            percent = needed(fault[kind], "percentage", f"{path}.{kind}")  # without it Istio injects nothing
            share = needed(percent, "value", f"{path}.{kind}.percentage")
            words[kind] = {ours: duration(value) if kind == "delay" else value, "percentage": share}
    if not words:
        raise InvalidValue(f"{path} has neither delay nor abort")
    return words


def duration(text: str) -> str:
    """Return a duration as protobuf's JSON has it: ``500ms`` becomes ``0.5s``."""
    return f"{round(seconds(text) or 0.0, 9):.9f}".rstrip("0").rstrip(".") + "s"
