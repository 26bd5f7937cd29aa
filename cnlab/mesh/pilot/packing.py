"""From the dict of Envoy's documentation to a protobuf `Any`, and back.

Protobuf has to know every message that an "@type" names. Each lies in the Python package of its name, so the
name says what to import, and nobody keeps a list.
"""

from __future__ import annotations

import contextlib
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, json_format

from cnlab.errors import InvalidValue
from cnlab.mesh.errors import MeshError
from cnlab.mesh.pilot.resources import KIND, RDS, TYPE, Json, name_of

_WRAPPING = re.compile(r"Failed to parse \w+ field: ")


class InvalidResource(MeshError, InvalidValue):  # noqa: N818 - reads as the claim it makes
    """A dict is not the resource that it should be; the message names the resource and the field."""


def to_any(type_url: str, resource: Mapping[str, Any]) -> any_pb2.Any:
    """Pack a resource, checking all of its fields.

    Raises:
        InvalidResource: a field that the message does not have, or a value of the wrong type.
    """
    who = f"{KIND.get(type_url, type_url)} {name_of(type_url, resource)!r}"
    try:
        for name in _types(type_url, resource):
            _load(name.removeprefix(TYPE).rpartition(".")[0])
        if type_url == RDS:
            with contextlib.suppress(
                json_format.ParseError, TypeError, ValueError
            ):  # the whole says it better
                return _route_configuration(resource)
        return json_format.ParseDict({"@type": type_url, **resource}, any_pb2.Any())
    except json_format.ParseError as error:
        raise InvalidResource(f"{who}: {_words(str(error))}") from None


def _route_configuration(resource: Mapping[str, Any]) -> any_pb2.Any:
    """Pack each virtual host by itself: they are many, and a change is of one; the others are remembered.

    Messages may be joined on the wire: the fields of one after those of another are the fields of both.
    """
    rest = {"@type": RDS, **resource, "virtual_hosts": []}
    packed = json_format.ParseDict(rest, any_pb2.Any())
    hosts = [_virtual_host(json.dumps(host, sort_keys=True)) for host in resource.get("virtual_hosts", ())]
    return any_pb2.Any(type_url=RDS, value=b"".join((packed.value, *hosts)))


@lru_cache(maxsize=4096)
def _virtual_host(text: str) -> bytes:
    host = json_format.ParseDict(json.loads(text), route_components_pb2.VirtualHost())
    message: bytes = route_pb2.RouteConfiguration(virtual_hosts=[host]).SerializeToString()
    return message


def from_any(packed: any_pb2.Any) -> Json:
    """Unpack a resource; it says by "@type" what it is."""
    _load(packed.type_url.removeprefix(TYPE).rpartition(".")[0])
    plain: Json = _plain(json_format.MessageToDict(packed, preserving_proto_field_name=True))
    return plain


def as_fields(name: str, version: str, packed: any_pb2.Any) -> tuple[bytes, bytes]:
    """Return a resource on the wire as a field of a DiscoveryResponse, and of a DeltaDiscoveryResponse."""
    resource = discovery_pb2.Resource(name=name, version=version, resource=packed)
    in_world = discovery_pb2.DiscoveryResponse(resources=[packed]).SerializeToString()
    return in_world, discovery_pb2.DeltaDiscoveryResponse(resources=[resource]).SerializeToString()


def _plain(value: Any) -> Any:
    """Make plain dicts of ordered ones, which print badly."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _types(type_url: str, value: object) -> Iterator[str]:
    """Yield all types that a resource consists of, its own first."""
    if type_url:
        yield type_url
    if isinstance(value, Mapping):
        if "@type" in value:
            yield str(value["@type"])
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _types("", one)


@cache
def _load(package: str) -> None:
    """Import all messages of a package; one that does not exist is found missing when it is parsed."""
    try:
        module = import_module(package)
    except ImportError:
        return
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if found.name.endswith("_pb2"):
            import_module(f"{package}.{found.name}")


def _words(error: str) -> str:
    """Shorten what `ParseDict` says: where it was and what it did not like, without the way down to it."""
    first = _WRAPPING.sub("", error.splitlines()[0]).rstrip(".")
    return first.replace('"Any.', '"').replace(" at Any.", " at ").replace(' at "Any"', "")
