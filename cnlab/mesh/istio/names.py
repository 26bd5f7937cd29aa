"""Names in manifests: of hosts, subsets and manifests themselves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnlab.errors import InvalidValue

Json = dict[str, Any]
Objects = Mapping[tuple[str, str], Json]
Subject = tuple[str, str]  # a verb and the service or host that it is about
_DOMAIN = ".default.svc.cluster.local"


@dataclass(frozen=True, slots=True)
class Known:
    """What there is that a manifest may name."""

    services: Mapping[str, tuple[str, ...]]
    entry: str
    port: int
    gateway_port: int

    def service(self, host: str, where: str) -> str:
        """Return the service that a host means: ``reviews`` or ``reviews.default.svc.cluster.local``.

        Raises:
            InvalidValue: there is none.
        """
        name = host.removesuffix(_DOMAIN)
        if name not in self.services:
            names = ", ".join(sorted(self.services))
            raise InvalidValue(f"{where}: host {host!r} is no service of this mesh; there are {names}")
        return name

    def check_port(self, destination: Json, where: str) -> None:
        """Find out that a destination's port is the one that services have here."""
        number = destination.get("port", {}).get("number", self.port)
        if number != self.port:
            raise InvalidValue(f"{where}.port: every service listens on {self.port} here, not on {number}")


def of_kind(objects: Objects, kind: str) -> Iterator[tuple[str, Json]]:
    """Return ``Kind/name`` and the ``spec`` of each manifest of a kind."""
    for (one, name), manifest in objects.items():
        if one == kind:
            yield f"{kind}/{name}", manifest.get("spec") or {}


def needed(data: Json, name: str, where: str) -> Any:
    """Return a field that must be there."""
    if name not in data:
        raise InvalidValue(f"{where}.{name} is missing")
    return data[name]


def selected(spec: Json, known: Known, where: str) -> str:
    """Return the service that a selector means, "" for all; only the label ``app`` selects here."""
    labels = spec.get("selector", {}).get("matchLabels", {})
    others = [label for label in labels if label != "app"]
    if others:
        raise InvalidValue(f"{where}: spec.selector.matchLabels.{others[0]} is not supported; supported: app")
    return known.service(labels["app"], f"{where}: spec.selector.matchLabels") if labels else ""
