"""The part of Istio's manifests that is understood here, as data: what is not in it is refused by name.

`SUBSET` is the list. `check` compares a manifest with it, so translators meet only what they know; `as_text`
prints it for a reader.

See: Istio, "Configuration", https://istio.io/latest/docs/reference/config/
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnlab.errors import InvalidValue

NETWORKING = ("networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")
SECURITY = ("security.istio.io/v1", "security.istio.io/v1beta1")
NAMESPACES = ("", "default", "istio-system")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of manifest: the versions of its API, and the shape of its ``spec``."""

    api_versions: tuple[str, ...]
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OneOf:
    """An object with exactly one of these fields."""

    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Words:
    """One of these words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ByName:
    """An object whose field names are free, such as header names or labels."""

    of: Any


# A shape: str, int, float, "duration", Words, [shape] of a list, {field: shape} of an object, OneOf, ByName.
_TEXT_MATCH = OneOf({"exact": str, "prefix": str, "regex": str})
_NOUNS = {str: "a text", int: "a whole number", float: "a number"}
_DESTINATION = {"host": str, "subset": str, "port": {"number": int}}
_PERCENT = {"value": float}
_SELECTOR = {"matchLabels": ByName(str)}

SUBSET: dict[str, Kind] = {
    "VirtualService": Kind(
        NETWORKING,
        {
            "hosts": [str],
            "gateways": [str],
            "http": [
                {
                    "name": str,
                    "match": [
                        {
                            "name": str,
                            "uri": _TEXT_MATCH,
                            "method": OneOf({"exact": str}),
                            "headers": ByName(_TEXT_MATCH),
                            "sourceLabels": {"app": str},
                        }
                    ],
                    "route": [{"destination": _DESTINATION, "weight": int}],
                    "timeout": "duration",
                    "retries": {"attempts": int, "perTryTimeout": "duration", "retryOn": str},
                    "fault": {
                        "delay": {"fixedDelay": "duration", "percentage": _PERCENT},
                        "abort": {"httpStatus": int, "percentage": _PERCENT},
                    },
                    "mirror": _DESTINATION,
                    "mirrorPercentage": _PERCENT,
                    "rewrite": {"uri": str, "authority": str},
                    "redirect": {"uri": str, "authority": str, "redirectCode": int},
                    "directResponse": {"status": int, "body": {"string": str}},
                }
            ],
        },
    ),
    "DestinationRule": Kind(
        NETWORKING,
        {
            "host": str,
            "subsets": [{"name": str, "labels": {"version": str}}],
            "trafficPolicy": {
                "loadBalancer": {"simple": Words(("LEAST_REQUEST", "ROUND_ROBIN", "RANDOM", "UNSPECIFIED"))},
                "connectionPool": {
                    "tcp": {"maxConnections": int, "connectTimeout": "duration"},
                    "http": {
                        "http1MaxPendingRequests": int,
                        "http2MaxRequests": int,
                        "maxRequestsPerConnection": int,
                        "maxRetries": int,
                    },
                },
                "outlierDetection": {
                    "consecutive5xxErrors": int,
                    "consecutiveGatewayErrors": int,
                    "interval": "duration",
                    "baseEjectionTime": "duration",
                    "maxEjectionPercent": int,
                },
                "tls": {"mode": Words(("ISTIO_MUTUAL", "DISABLE"))},
            },
        },
    ),
    "Gateway": Kind(
        NETWORKING,
        {
            "selector": ByName(str),
            "servers": [
                {"port": {"number": int, "name": str, "protocol": Words(("HTTP", "HTTP2"))}, "hosts": [str]}
            ],
        },
    ),
    "ServiceEntry": Kind(
        NETWORKING,
        {
            "hosts": [str],
            "location": Words(("MESH_EXTERNAL",)),
            "resolution": Words(("STATIC",)),
            "ports": [{"number": int, "name": str, "protocol": Words(("HTTP", "HTTP2")), "targetPort": int}],
            "endpoints": [{"address": str, "ports": ByName(int)}],
        },
    ),
    "PeerAuthentication": Kind(
        SECURITY,
        {"selector": _SELECTOR, "mtls": {"mode": Words(("STRICT", "PERMISSIVE", "DISABLE", "UNSET"))}},
    ),
    "AuthorizationPolicy": Kind(
        SECURITY,
        {
            "selector": _SELECTOR,
            "action": Words(("ALLOW", "DENY")),
            "rules": [
                {
                    "from": [
                        {
                            "source": {
                                "principals": [str],
                                "notPrincipals": [str],
                                "namespaces": [str],
                                "notNamespaces": [str],
                            }
                        }
                    ],
                    "to": [
                        {
                            "operation": {
                                "methods": [str],
                                "notMethods": [str],
                                "paths": [str],
                                "notPaths": [str],
                                "ports": [str],
                                "notPorts": [str],
                            }
                        }
                    ],
                    "when": [{"key": str, "values": [str], "notValues": [str]}],
                }
            ],
        },
    ),
}


def check(manifest: object) -> tuple[str, str]:
    """Find out that a manifest is in the subset; return its kind and name.

    Raises:
        InvalidValue: it is not; the message names kind, name, the field by its path, and what there may be.
    """
    if not isinstance(manifest, dict) or not {"apiVersion", "kind"} <= set(manifest):
        raise InvalidValue("a document is no manifest: apiVersion, kind, metadata and spec are expected")
    kind = manifest["kind"]
    if kind not in SUBSET:
        raise InvalidValue(f"kind {kind!r} is not supported; supported: {', '.join(SUBSET)}")
    known, metadata = SUBSET[kind], manifest.get("metadata")
    if manifest["apiVersion"] not in known.api_versions:
        versions = ", ".join(known.api_versions)
        raise InvalidValue(f"{kind}: apiVersion {manifest['apiVersion']!r} is not one of {versions}")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise InvalidValue(f"{kind}: metadata.name is missing")
    where = f"{kind}/{metadata['name']}"
    if metadata.get("namespace", "") not in NAMESPACES:
        raise InvalidValue(f"{where}: metadata.namespace: there is only one namespace here, default")
    _check(manifest.get("spec") or {}, known.spec, where, "spec")
    return kind, metadata["name"]


def _check(value: Any, shape: Any, where: str, path: str) -> None:
    match shape:
        case OneOf(fields) | (dict() as fields):
            _check_object(value, fields, where, path)
            if isinstance(shape, OneOf) and len(value) != 1:
                raise InvalidValue(f"{where}: {path} needs exactly one of {', '.join(fields)}")
        case ByName(of):
            _expect(isinstance(value, dict), where, path, "an object", value)
            for name, one in value.items():
                _check(one, of, where, f"{path}.{name}")
        case [of]:
            _expect(isinstance(value, list), where, path, "a list", value)
            for number, one in enumerate(value):
                _check(one, of, where, f"{path}[{number}]")
        case Words(words):
            _expect(value in words, where, path, f"one of {', '.join(words)}", value)
        case "duration":
            _expect(seconds(value) is not None, where, path, "a duration such as 2s or 500ms", value)
        case _:
            allowed = (int, float) if shape is float else shape
            is_right = isinstance(value, allowed) and not isinstance(value, bool)
            _expect(is_right, where, path, _NOUNS[shape], value)


def _check_object(value: Any, fields: Mapping[str, Any], where: str, path: str) -> None:
    _expect(isinstance(value, dict), where, path, "an object", value)
    for name, one in value.items():
        if name not in fields:
            supported = f"supported there: {', '.join(fields)}"
            raise InvalidValue(f"{where}: {path}.{name} is not supported; {supported}")
        _check(one, fields[name], where, f"{path}.{name}")


def _expect(is_right: bool, where: str, path: str, expected: str, value: object) -> None:
    if not is_right:
        raise InvalidValue(f"{where}: {path}: expected {expected}, got {value!r}")


def seconds(text: object) -> float | None:
    """Return a duration such as ``2s``, ``500ms``, ``1m`` or ``1h``, or None if it is none."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    if isinstance(text, str):
        number = text.rstrip("hms")
        unit = text[len(number) :]
        if unit in units and number.replace(".", "", 1).isdigit():
            return float(number) * units[unit]
    return None


def as_text() -> str:
    """Return the subset as an outline, one kind after the other."""
    lines = []
    for kind, known in SUBSET.items():
        lines += [kind, *(f"  {line}" for line in _outline(known.spec))]
    return "\n".join(lines)


def _outline(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, shape in fields.items():
        inner = shape
        suffix = ""
        while isinstance(inner, list | ByName):
            suffix += "[]" if isinstance(inner, list) else ".*"
            inner = inner[0] if isinstance(inner, list) else inner.of
        match inner:
            case OneOf(words):
                yield f"{name}{suffix}: {' | '.join(words)}"
            case Words(words):
                yield f"{name}{suffix}: {' | '.join(words)}"
            case dict():
                yield f"{name}{suffix}"
                yield from (f"  {line}" for line in _outline(inner))
            case _:
                yield f"{name}{suffix}"
