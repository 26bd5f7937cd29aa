"""The service registry: which services there are, and where their instances listen.

Pilot reads it, and something else fills it: a plain list here, a cluster's EndpointSlices later. Whoever
fills it only has to be a `Registry`.

    registry = StaticRegistry([Endpoint("reviews", "127.1.2.10", 9080, labels={"version": "v1"})])
    registry.services()["reviews"].subset("v1")

See: "ServiceInstance" and "service registry" in Istio's architecture; EndpointSlice in Kubernetes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from cnlab.errors import InvalidValue

HEALTH = ("UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED")
"""Envoy's words for the health of an endpoint; it sends requests to UNKNOWN, HEALTHY and DEGRADED."""

Listener = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One instance of a service: where it listens, and what it says of itself."""

    service: str
    address: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    service_account: str = ""
    weight: int = 1
    health: str = "HEALTHY"

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise InvalidValue(
                f"endpoint of {self.service!r} at {self.address}: port {self.port} is not 1 to 65535"
            )
        if self.health not in HEALTH:
            raise InvalidValue(f"endpoint {self.name}: health {self.health!r} is none of {', '.join(HEALTH)}")
        if self.weight < 1:
            raise InvalidValue(f"endpoint {self.name}: weight {self.weight} is less than 1")

    @property
    def name(self) -> str:
        """The service and where it listens."""
        return f"{self.service}@{self.address}:{self.port}"

    @property
    def version(self) -> str:
        """The label that routes choose by; empty where there is none."""
        return self.labels.get("version", "")

    @property
    def identity(self) -> str:
        """The service account it runs as; by default one named like the service."""
        return self.service_account or self.service

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, which `from_dict` reads again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Endpoint:
        """Read what `to_dict` wrote, or a person did.

        Raises:
            InvalidValue: a word is missing or unknown.
        """
        try:
            return cls(**plain)
        except TypeError as error:
            raise InvalidValue(f"endpoint {dict(plain)}: {str(error).partition(') ')[2] or error}") from None


@dataclass(frozen=True, slots=True)
class Service:
    """A name, and all endpoints that answer to it."""

    name: str
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions among its endpoints, in order."""
        return tuple(sorted({one.version for one in self.endpoints if one.version}))

    def subset(self, version: str) -> tuple[Endpoint, ...]:
        """Return the endpoints of one version; all of them for the empty one."""
        return tuple(one for one in self.endpoints if version in ("", one.version))


class Registry(Protocol):
    """What Pilot wants to know of the platform."""

    def services(self) -> Mapping[str, Service]:
        """Return all services by name, as they are now."""

    def subscribe(self, listener: Listener) -> contextlib.AbstractContextManager[None]:
        """Call `listener` with the name of each service that changes, until the end of the block."""


class StaticRegistry:
    """A registry filled by hand, from a plain list."""

    def __init__(self, endpoints: Iterable[Endpoint] = ()) -> None:
        self._services: dict[str, Service] = {}
        self._listeners: list[Listener] = []
        for one in endpoints:
            self.add(one)

    def services(self) -> Mapping[str, Service]:
        """Return all services by name, as they are now."""
        return dict(self._services)

    def add(self, endpoint: Endpoint) -> None:
        """Add an endpoint, or replace what was known of the one at this address and port."""
        others = self._others(endpoint.service, endpoint.address, endpoint.port)
        self._put(Service(endpoint.service, (*others, endpoint)))

    def remove(self, endpoint: Endpoint) -> None:
        """Take an endpoint away; its service stays, without endpoints if it was the last.

        Raises:
            InvalidValue: no such endpoint.
        """
        others = self._others(endpoint.service, endpoint.address, endpoint.port)
        service = self._services.get(endpoint.service, Service(endpoint.service))
        if len(others) == len(service.endpoints):
            raise InvalidValue(f"endpoint {endpoint.name} is not in the registry")
        self._put(Service(endpoint.service, others))

    def replace(self, endpoints: Iterable[Endpoint]) -> None:
        """Make this list all there is; only services that differ are told of."""
        wanted = StaticRegistry(endpoints).services()
        for name in [*wanted, *(self._services.keys() - wanted.keys())]:
            if (service := wanted.get(name)) is None:
                del self._services[name]
                self._tell(name)
            elif service != self._services.get(name):
                self._put(service)

    @contextlib.contextmanager
    def subscribe(self, listener: Listener) -> Iterator[None]:
        """Call `listener` with the name of each service that changes, until the end of the block."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def _others(self, service: str, address: str, port: int) -> tuple[Endpoint, ...]:
        known = self._services.get(service, Service(service)).endpoints
        return tuple(one for one in known if (one.address, one.port) != (address, port))

    def _put(self, service: Service) -> None:
        self._services[service.name] = service
        self._tell(service.name)

    def _tell(self, name: str) -> None:
        for listener in tuple(self._listeners):
            listener(name)
