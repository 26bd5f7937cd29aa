"""Snapshots for all nodes of a mesh at once, at the cost of what differs from the last time.

Nodes share most of their resources, and most stay as they were. So a dict that was packed already, for
whichever node, is recognised: it is the same object, or it equals the one of its name that was there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cnlab.mesh.pilot.resources import Json, name_of
from cnlab.mesh.pilot.snapshot import Resource, Resources, Snapshot, pack

Known = dict[tuple[str, str], list[tuple[Json, Resource]]]
"""By type and name: the dicts that nodes have, and what they were packed into."""


class Assembler:
    """Remembers the last snapshots it has made."""

    def __init__(self) -> None:
        self._known: Known = {}

    def snapshots(
        self, version: str, nodes: Mapping[str, Mapping[str, Sequence[Json]]]
    ) -> dict[str, Snapshot]:
        """Return a snapshot for each node.

        Raises:
            InvalidResource: a field is wrong.
        """
        once = _Once(self._known)
        made = {
            node: Snapshot(version, {kind: once.resources(kind, some) for kind, some in by_type.items()})
            for node, by_type in nodes.items()
        }
        self._known = once.known
        return made


class _Once:
    """One pass over all nodes; what is the same object is looked at once."""

    def __init__(self, before: Known) -> None:
        self.known: Known = {}
        self._before = before
        self._packed: dict[int, Resource] = {}
        self._mappings: dict[int, Resources] = {}

    def resources(self, type_url: str, some: Sequence[Json]) -> Resources:
        """Return the packed resources of a list, by name; the same object for the same list."""
        mapping = self._mappings.get(id(some))
        if mapping is None:
            packed = [self._pack(type_url, one) for one in some]
            mapping = self._mappings[id(some)] = {one.name: one for one in packed}
        return mapping

    def _pack(self, type_url: str, resource: Json) -> Resource:
        packed = self._packed.get(id(resource))
        if packed is None:
            key = (type_url, name_of(type_url, resource))
            packed = self._recognised(key, resource) or pack(type_url, resource)
            self._packed[id(resource)] = packed
            self.known.setdefault(key, []).append((resource, packed))
        return packed

    def _recognised(self, key: tuple[str, str], resource: Json) -> Resource | None:
        before = self._before.get(key, ())
        for old, packed in before:
            if old is resource:
                return packed
        return next((packed for old, packed in before if old == resource), None)
