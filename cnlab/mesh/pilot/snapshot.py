"""All that one proxy is to know, at one moment: a versioned, consistent snapshot.

A resource is packed once, however many proxies get it: equal dicts are the same object. Its version is a hash
of its content, so a control plane that starts anew gives its resources the versions they had.

    snapshot = Snapshot.of("7", {CDS: [cluster("reviews")], EDS: [assignment("reviews", endpoints)]})
    snapshot.check_consistent()

See: "xDS REST and gRPC protocol", the sections on versions and on eventual consistency.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

from cnlab.mesh.errors import MeshError
from cnlab.mesh.pilot.packing import as_fields, from_any, to_any
from cnlab.mesh.pilot.references import Reference, references
from cnlab.mesh.pilot.resources import KIND, ORDER, SHORT, TYPE, Json, name_of


class Inconsistent(MeshError):  # noqa: N818 - reads as the claim it makes
    """A resource names another one that is not there."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Resource:
    """A packed resource; equal ones are the same object."""

    type_url: str
    name: str
    version: str
    needs: tuple[Reference, ...] | None = field(repr=False)
    """What it names: (type URL, name) each. None: unknown, as of something that only a client has."""
    body: bytes = field(default=b"", repr=False)
    """The message on the wire."""
    in_world: bytes = field(default=b"", repr=False)
    in_delta: bytes = field(default=b"", repr=False)
    """The same as a field of either kind of response: to answer is to join bytes, not to serialize anew."""

    def to_dict(self) -> Json:
        """Return it as the dict that Envoy's documentation shows."""
        from google.protobuf.any_pb2 import Any as Packed

        return from_any(Packed(type_url=self.type_url, value=self.body))


_PACKED: WeakValueDictionary[str, Resource] = WeakValueDictionary()


def pack(type_url: str, resource: Mapping[str, Any]) -> Resource:
    """Return the resource for a dict; the one there is already, if somebody has packed an equal dict.

    Raises:
        InvalidResource: a field is wrong.
    """
    text = json.dumps([type_url, resource], sort_keys=True, separators=(",", ":"))
    version = hashlib.sha256(text.encode()).hexdigest()[:16]
    packed = _PACKED.get(version)
    if packed is None:
        plain = {key: value for key, value in resource.items() if key != "@type"}
        message = to_any(type_url, plain)
        name, needs = name_of(type_url, resource), tuple(references(type_url, resource))
        in_world, in_delta = as_fields(name, version, message)
        packed = Resource(type_url, name, version, needs, message.value, in_world, in_delta)
        _PACKED[version] = packed
    return packed


Resources = Mapping[str, Resource]
"""Resources of one type, by name."""
_NONE: Resources = {}


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The resources of one proxy, by type and name; never modified, so many proxies may share it."""

    version: str
    resources: Mapping[str, Resources] = field(default_factory=dict)

    @classmethod
    def of(cls, version: str, resources: Mapping[str, Iterable[Mapping[str, Any]]]) -> Snapshot:
        """Pack dicts, given by type URL.

        Raises:
            InvalidResource: a field is wrong.
        """
        return cls(
            version, {kind: _by_name(pack(kind, one) for one in some) for kind, some in resources.items()}
        )

    @classmethod
    def holding(cls, version: str, resources: Iterable[Resource]) -> Snapshot:
        """Return a snapshot of resources that are packed already."""
        every = list(resources)
        kinds = dict.fromkeys(one.type_url for one in every)
        return cls(version, {kind: _by_name(one for one in every if one.type_url == kind) for kind in kinds})

    def __repr__(self) -> str:
        counts = (f"{len(self[type_url])} {SHORT[type_url]}" for type_url in ORDER if self[type_url])
        return f"<Snapshot {self.version}: {', '.join(counts) or 'empty'}>"

    def __getitem__(self, type_url: str) -> Resources:
        return self.resources.get(type_url, _NONE)

    def __iter__(self) -> Iterator[Resource]:
        """All resources, in the order in which they are to be sent."""
        for type_url in ORDER:
            yield from self[type_url].values()

    def updated(self, version: str, *resources: Resource, removed: Collection[Reference] = ()) -> Snapshot:
        """Return one with some resources replaced or added; types that stay as they are stay shared."""
        changed = {one.type_url for one in resources} | {type_url for type_url, _ in removed}
        after = dict(self.resources)
        for type_url in changed:
            kept = {name: one for name, one in self[type_url].items() if (type_url, name) not in removed}
            after[type_url] = kept | {one.name: one for one in resources if one.type_url == type_url}
        return Snapshot(version, after)

    def check_consistent(self, *, elsewhere: Collection[str] = ()) -> None:
        """Find out whether all that a resource names is there; `elsewhere` names clusters of the bootstrap.

        Raises:
            Inconsistent: something is not; the message names both ends.
        """
        for resource in self:
            for type_url, name in resource.needs or ():
                if name not in self[type_url] and name not in elsewhere:
                    raise Inconsistent(
                        f"{KIND[resource.type_url]} {resource.name!r} names {KIND[type_url]} {name!r}, "
                        f"which is not among {_some(self[type_url])}"
                    )

    def to_dict(self) -> dict[str, list[Json]]:
        """Return all resources as dicts, by type."""
        return {
            type_url.removeprefix(TYPE): [one.to_dict() for one in self[type_url].values()]
            for type_url in ORDER
            if self[type_url]
        }


@lru_cache(maxsize=64)
def differences(old: Snapshot | None, new: Snapshot) -> Mapping[str, frozenset[str]]:
    """Return the names that differ between two snapshots, by type.

    Remembered, because a thousand proxies that share a snapshot change to the next one together.
    """
    found = {}
    for type_url in ORDER:
        before, after = old[type_url] if old else _NONE, new[type_url]
        if before is not after:
            names = before.keys() | after.keys()
            if changed := frozenset(name for name in names if before.get(name) is not after.get(name)):
                found[type_url] = changed
    return found


def _by_name(resources: Iterable[Resource]) -> Resources:
    by_name: dict[str, Resource] = {}
    for one in resources:
        if one.name in by_name:
            raise Inconsistent(f"{KIND[one.type_url]} {one.name!r} is there twice")
        by_name[one.name] = one
    return by_name


def _some(resources: Resources) -> str:
    names = [repr(name) for name in resources]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"
