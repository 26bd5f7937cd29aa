"""What a change of the configuration makes of Envoy's resources: those that differ, to be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnlab.mesh.configuration import Configuration, Json
    from cnlab.mesh.settings import Surroundings


class Change:
    """The difference between two configurations; `print` shows it in Envoy's own words, as YAML."""

    def __init__(
        self,
        cause: str,
        before: Configuration,
        after: Configuration,
        view: View,
        *,
        service: str = "",
        version: int = 0,
    ) -> None:
        self.cause = cause
        self.version = version  # of what was sent
        self._before, self._after, self._view, self._service = before, after, view, service

    def __repr__(self) -> str:
        return f"<Change {self.cause}, version {self.version}>"

    def __str__(self) -> str:
        import yaml

        excerpts = [_excerpt(resource, self._service) for resource in self.resources]
        plain = [json.loads(json.dumps(one)) for one in excerpts]  # parts that are shared are written twice
        return "---\n".join(yaml.safe_dump(one, sort_keys=False, width=88) for one in plain)

    @cached_property
    def resources(self) -> tuple[Json, ...]:
        """The resources that are new or differ, whole, as the dicts of Envoy's documentation."""
        old = {_key(one) for one in self._view(self._before)}
        return tuple(one for one in self._view(self._after) if _key(one) not in old)

    def to_json(self) -> str:
        """Return the resources as JSON."""
        return json.dumps(list(self.resources), indent=2)


@dataclass(frozen=True, slots=True)
class View:
    """The resources that nodes would get of a configuration, equal ones once."""

    services: Callable[[], Any]
    workloads: Callable[[], Any]
    surroundings: Surroundings

    def __call__(self, configuration: Configuration) -> list[Json]:
        """Return them, each with its "@type"."""
        from cnlab.mesh import traffic

        nodes = traffic.nodes(configuration, self.services(), self.workloads(), self.surroundings)
        found: dict[str, Json] = {}
        for by_type in nodes.values():
            for type_url, some in by_type.items():
                for one in some:
                    typed = {"@type": type_url, **one}
                    found.setdefault(_key(typed), typed)
        return list(found.values())


def _key(resource: Json) -> str:
    return json.dumps(resource, sort_keys=True)


def _excerpt(resource: Json, service: str) -> Json:
    """Return a route configuration with the virtual host of one service only; anything else as it is."""
    hosts = [host for host in resource.get("virtual_hosts", []) if host["name"] == service]
    return {**resource, "virtual_hosts": hosts} if hosts else resource
