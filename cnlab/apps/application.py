"""What an application consists of: services, their versions and programs, and who calls whom.

Nothing is started here; that is what a `cnlab.apps.launcher.Launcher` does, instance by instance. A program
learns all it needs from environment variables, so that it can run beside its peers or behind a proxy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cnlab.errors import InvalidValue

Language = Literal["Python", "JavaScript", "C"]
Client = Literal["plain", "library"]


@dataclass(frozen=True, slots=True)
class Program:
    """A service's source file, and a Python `twin` of it for machines that cannot run its language."""

    source: Path
    language: Language = "Python"
    twin: Path | None = None

    def as_twin(self) -> Program:
        """Return the program that takes this one's place where its language is missing.

        Raises:
            InvalidValue: it has no twin.
        """
        if self.twin is None:
            raise InvalidValue(f"{self.source.name}: there is no Python twin of it")
        return Program(self.twin)


@dataclass(frozen=True, slots=True)
class Service:
    """A name under which instances of some versions answer at `port`, and the services that these call."""

    name: str
    program: Program
    versions: tuple[str, ...] = ("v1",)
    calls: tuple[str, ...] = ()
    port: int = 9080
    replicas: int = 1  # of each version

    def instances(self) -> tuple[Instance, ...]:
        """Return the instances of all versions."""
        return tuple(
            Instance(self, version, index) for version in self.versions for index in range(self.replicas)
        )


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of a version of a service, or one that is to run."""

    service: Service
    version: str = "v1"
    index: int = 0

    @property
    def name(self) -> str:
        """What the field calls it, such as ``reviews-v1-0``."""
        return f"{self.service.name}-{self.version}-{self.index}"

    def environment(
        self, *, listen: str, peers: Mapping[str, Sequence[str]], client: Client = "plain"
    ) -> dict[str, str]:
        """Return the variables that tell the program who it is and where its peers are.

        Args:
            listen: where it is to answer, ``host:port``.
            peers: the addresses of each service that it calls; what it does not call is left out.
            client: whether it tries again, limits the time and spreads its calls by itself (``library``), or
                leaves that to somebody else.
        """
        reachable = [name for name in self.service.calls if name in peers]
        return {
            "SERVICE_NAME": self.service.name,
            "SERVICE_VERSION": self.version,
            "LISTEN": listen,
            "CALLS": ",".join(reachable),
            "CLIENT": client,
            **{address_variable(name): ",".join(peers[name]) for name in reachable},
        }


def address_variable(service: str) -> str:
    """Return the name of the variable that holds the addresses of a service."""
    return f"{service.upper().replace('-', '_')}_ADDR"


@dataclass(frozen=True, slots=True)
class Application:
    """Services that call each other; a request from outside comes to `entry`."""

    name: str
    services: tuple[Service, ...]
    entry: str = "productpage"
    _by_name: dict[str, Service] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {service.name: service for service in self.services})
        if len(self._by_name) < len(self.services):
            raise InvalidValue(f"{self.name}: two services have the same name; the names are {self.names}")
        for source, destination in [*self.edges(), (self.name, self.entry)]:
            if destination not in self._by_name:
                raise InvalidValue(f"{source} calls {destination!r}, which {self.name} does not have")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the services."""
        return tuple(service.name for service in self.services)

    def service(self, name: str) -> Service:
        """Return the service of this name.

        Raises:
            InvalidValue: there is none; the message lists those there are.
        """
        if name not in self._by_name:
            raise InvalidValue(f"no service {name!r}; {self.name} has {', '.join(self.names)}")
        return self._by_name[name]

    def instances(self) -> tuple[Instance, ...]:
        """Return the instances of all services."""
        return tuple(instance for service in self.services for instance in service.instances())

    def edges(self) -> tuple[tuple[str, str], ...]:
        """Return who calls whom."""
        return tuple((service.name, called) for service in self.services for called in service.calls)

    def replacing(self, service: Service) -> Application:
        """Return this application with another service in the place of the one of its name."""
        self.service(service.name)
        services = tuple(service if old.name == service.name else old for old in self.services)
        return replace(self, services=services)
