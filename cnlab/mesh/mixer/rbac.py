"""Istio's AuthorizationPolicy, as Envoy itself decides it: role-based access control in the sidecar.

No question goes to a server, unlike `cnlab.mesh.mixer.policy`: the rules are in the sidecar. A request passes
two filters. The first denies what any DENY policy of the service matches. The second is there only if the
service has an ALLOW policy, and then denies what none of them matches; so an ALLOW policy without rules lets
nobody in.

Of the manifest's words ``ports`` and those in `_SOURCE`, `_OPERATION` and `_CONDITION` are understood, others
are refused. Values may begin or end with ``*``; a lone ``*`` is any value that is there at all. Ports are
compared with the one that the service has: what a sidecar sees is its own, 15006.

See: Istio, "Authorization Policy" and "Authorization Policy Conditions"; Envoy, "Role Based Access Control".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cnlab.errors import InvalidValue
from cnlab.mesh.auth.identity import NAMESPACE
from cnlab.mesh.pilot.resources import Json, extension, typed

DENY_FILTER, ALLOW_FILTER = "envoy.filters.http.rbac.deny", "envoy.filters.http.rbac.allow"
FILTER_NAMES = (DENY_FILTER, ALLOW_FILTER)
ACTIONS = {"DENY": DENY_FILTER, "ALLOW": ALLOW_FILTER}
PORT = 9080
"""The port of a service, if nobody says another."""
_RBAC = "envoy.extensions.filters.http.rbac.v3"
_HEADER_KEY = re.compile(r"request\.headers\[([^\[\]]+)\]")
_ANYTHING = {"any": True}


def rbac_filters(manifests: Iterable[Mapping[str, Any]], service: str, *, port: int = PORT) -> list[Json]:
    """Return the HTTP filters of a service's sidecar, in their order; none where no policy selects it.

    Args:
        manifests: AuthorizationPolicy manifests of the whole mesh.
        service: whose sidecar it is; a manifest selects it by the label ``app``.
        port: the one that the service has.

    Raises:
        InvalidValue: a manifest has what is not understood; the message says what and where.
    """
    policies: dict[str, Json] = {}
    names: set[str] = set()
    for manifest in manifests:
        check(manifest)
        if _name(manifest) in names:
            raise InvalidValue(f"{_name(manifest)}: two policies have this name")
        names.add(_name(manifest))
        spec = manifest.get("spec") or {}
        if _selected(manifest) in {"", service}:
            policies.setdefault(spec.get("action", "ALLOW"), {}).update(_policies(manifest, port))
    return [
        extension(name, f"{_RBAC}.RBAC", rules={"action": action, "policies": policies[action]})
        for action, name in ACTIONS.items()
        if action in policies
    ]


def rbac_per_route(
    manifests: Iterable[Mapping[str, Any]], service: str, *, port: int = PORT
) -> dict[str, Json]:
    """Return the same for a route's ``typed_per_filter_config``, by the filters' names."""
    return {
        one["name"]: typed(f"{_RBAC}.RBACPerRoute", rbac={"rules": one["typed_config"]["rules"]})
        for one in rbac_filters(manifests, service, port=port)
    }


def check(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that is no AuthorizationPolicy, or has words that are not understood."""
    name = _name(manifest)
    if manifest.get("kind") != "AuthorizationPolicy":
        raise InvalidValue(f"{name}: not an AuthorizationPolicy")
    if not _map(manifest, "metadata", name).get("name"):
        raise InvalidValue(f"{name}: metadata.name is missing")
    namespace = manifest["metadata"].get("namespace", NAMESPACE)
    if namespace != NAMESPACE:
        raise InvalidValue(f"{name}: metadata.namespace {namespace!r}; the mesh has {NAMESPACE!r} only")
    spec = _map(manifest, "spec", name)
    _only(spec, {"selector", "action", "rules"}, f"{name}: spec")
    if spec.get("action", "ALLOW") not in ACTIONS:
        raise InvalidValue(f"{name}: spec.action {spec['action']!r}; supported: {', '.join(ACTIONS)}")
    _selected(manifest)
    _policies(manifest, PORT)


def _selected(manifest: Mapping[str, Any]) -> str:
    """Return the service that it selects, "" for all."""
    name = _name(manifest)
    selector = _map(_map(manifest, "spec", name), "selector", f"{name}: spec")
    _only(selector, {"matchLabels"}, f"{name}: spec.selector")
    labels = _map(selector, "matchLabels", f"{name}: spec.selector")
    _only(labels, {"app"}, f"{name}: spec.selector.matchLabels")
    return str(labels.get("app", ""))


def _policies(manifest: Mapping[str, Any], port: int) -> dict[str, Json]:
    """Return Envoy's policies, one for each rule, under the names that Istio gives them."""
    name, spec = _name(manifest), manifest.get("spec") or {}
    short = manifest.get("metadata", {}).get("name", "")
    return {
        f"ns[{NAMESPACE}]-policy[{short}]-rule[{number}]": _policy(rule, where, port)
        for number, (rule, where) in enumerate(_items(spec, "rules", f"{name}: spec"))
    }


def _policy(rule: Mapping[str, Any], where: str, port: int) -> Json:
    """A rule holds where one of ``from``, one of ``to`` and each of ``when`` hold; what is left out holds."""
    _only(rule, {"from", "to", "when"}, where)
    sources = [
        _all_of(_words(one, "source", _SOURCE, place), "and_ids")
        for one, place in _items(rule, "from", where)
    ]
    operations = [
        _all_of(_words(one, "operation", {**_OPERATION, "ports": _port(port)}, place), "and_rules")
        for one, place in _items(rule, "to", where)
    ]
    when = [part for one, place in _items(rule, "when", where) for part in _condition(one, place)]
    if when:
        sources = [{"and_ids": {"ids": [source, *when]}} for source in sources or [_ANYTHING]]
    return {"permissions": operations or [_ANYTHING], "principals": sources or [_ANYTHING]}


def _words(
    one: Mapping[str, Any], kind: str, known: Mapping[str, Callable[[str], Json]], where: str
) -> list[Json]:
    """Return what must hold of a source or an operation: for each word, one of its values."""
    _only(one, {kind}, where)
    words = _map(one, kind, where)
    negated = {_negative(word): word for word in known}
    _only(words, {*known, *negated}, f"{where}.{kind}")
    if not words:
        raise InvalidValue(f"{where}.{kind}: says nothing; leave it out to match everything")
    collected = []
    ids, set_ids, not_id = (
        ("or_ids", "ids", "not_id") if kind == "source" else ("or_rules", "rules", "not_rule")
    )
    for word, values in words.items():
        make = known[negated.get(word, word)]
        matchers = [make(str(value)) for value in _list(values, f"{where}.{kind}.{word}")]
        either: Json = matchers[0] if len(matchers) == 1 else {ids: {set_ids: matchers}}
        collected.append({not_id: either} if word in negated else either)
    return collected


def _condition(one: Mapping[str, Any], where: str) -> list[Json]:
    """Return what must hold of the request's attributes, as principals of Envoy."""
    _only(one, {"key", "values", "notValues"}, where)
    key = str(one.get("key", ""))
    header = _HEADER_KEY.fullmatch(key)
    if not header and key not in _CONDITION:
        known = ", ".join(["request.headers[…]", *_CONDITION])
        raise InvalidValue(f"{where}.key {key!r} is not supported here; supported: {known}")
    make = _header(header.group(1)) if header else _CONDITION[key]
    parts = []
    for word in ("values", "notValues"):
        if word in one:
            matchers = [make(str(value)) for value in _list(one[word], f"{where}.{word}")]
            either: Json = {"or_ids": {"ids": matchers}}
            parts.append(either if word == "values" else {"not_id": either})
    if not parts:
        raise InvalidValue(f"{where}: neither values nor notValues")
    return parts


def _all_of(parts: Sequence[Json], conjunction: str) -> Json:
    if len(parts) == 1:
        return parts[0]
    return {conjunction: {conjunction.removeprefix("and_"): list(parts)}} if parts else _ANYTHING


def _text(value: str, *, before: str = "", ignore_case: bool = False) -> Json:
    """Return Envoy's StringMatcher for a value that may begin or end with ``*``; `before` comes before it."""
    options = {"ignore_case": True} if ignore_case else {}
    if not value or "*" in value[1:-1]:
        raise InvalidValue(f"AuthorizationPolicy: {value!r}: a * may only be the first or the last letter")
    if value == "*":
        return {"safe_regex": {"regex": ".+"}}
    if value.startswith("*"):
        return {"suffix": value[1:], **options}
    if value.endswith("*"):
        return {"prefix": before + value[:-1], **options}
    return {"exact": before + value, **options}


def _principal(value: str) -> Json:
    """``cluster.local/ns/default/sa/reviews``: Istio leaves out the scheme."""
    return {"authenticated": {"principal_name": _text(value, before="spiffe://")}}


def _namespace(value: str) -> Json:
    pattern = re.escape(value).replace(r"\*", ".*")
    return {"authenticated": {"principal_name": {"safe_regex": {"regex": f"spiffe://[^/]+/ns/{pattern}/.*"}}}}


def _ip_block(value: str) -> Json:
    try:
        block = ipaddress.ip_network(value)
    except ValueError as error:
        raise InvalidValue(f"AuthorizationPolicy: ipBlocks: {error}") from None
    address = {"address_prefix": str(block.network_address), "prefix_len": block.prefixlen}
    return {"direct_remote_ip": address}


def _header(name: str, *, ignore_case: bool = False) -> Callable[[str], Json]:
    def make(value: str) -> Json:
        if value == "*":
            return {"header": {"name": name, "present_match": True}}
        return {"header": {"name": name, "string_match": _text(value, ignore_case=ignore_case)}}

    return make


def _path(value: str) -> Json:
    if "{" in value:
        raise InvalidValue(f"AuthorizationPolicy: path template {value!r} is not supported here")
    return {"url_path": {"path": _text(value)}}


def _port(own: int) -> Callable[[str], Json]:
    def make(value: str) -> Json:
        if not value.isdigit():
            raise InvalidValue(f"AuthorizationPolicy: port {value!r} is no number")
        return _ANYTHING if int(value) == own else {"not_rule": _ANYTHING}

    return make


def _negative(word: str) -> str:
    return f"not{word[0].upper()}{word[1:]}"


def _only(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    if unknown := set(given) - set(known):
        supported = ", ".join(sorted(known))
        raise InvalidValue(f"{where}.{min(unknown)} is not supported here; supported: {supported}")


def _map(given: Mapping[str, Any], word: str, where: str) -> Mapping[str, Any]:
    value = given.get(word) or {}
    if not isinstance(value, Mapping):
        raise InvalidValue(f"{where}.{word}: expected words and values, got {value!r}")
    return value


def _items(given: Mapping[str, Any], word: str, where: str) -> list[tuple[Mapping[str, Any], str]]:
    """Return the parts of a list, each with where it stands; a list that is left out is empty."""
    values = given.get(word) or []
    if not isinstance(values, list):
        raise InvalidValue(f"{where}.{word}: expected a list, got {values!r}")
    for number, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise InvalidValue(f"{where}.{word}[{number}]: expected words and values, got {value!r}")
    return [(value, f"{where}.{word}[{number}]") for number, value in enumerate(values)]


def _list(values: Any, where: str) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise InvalidValue(f"{where}: expected a list with at least one value, got {values!r}")
    return values


def _name(manifest: Mapping[str, Any]) -> str:
    metadata = manifest.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, Mapping) else ""
    return f"{manifest.get('kind', 'manifest')}/{name}"


_SOURCE = {"principals": _principal, "namespaces": _namespace, "ipBlocks": _ip_block}
_OPERATION = {
    "hosts": _header(":authority", ignore_case=True),
    "methods": _header(":method"),
    "paths": _path,
}
_CONDITION = {
    "source.principal": _principal,
    "source.namespace": _namespace,
    "source.ip": _ip_block,
}
