"""Addresses without root: each instance has a loopback address of its own, so ports are the field's own.

A mesh reserves one /24 of the loopback network, the first address for the control plane, the second for the
ingress gateway, others for instances.

See: `cnlab.apps.addresses`; "Ports used by Istio" in Istio's application requirements
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

from cnlab.apps import addresses
from cnlab.apps.launcher import Launcher
from cnlab.errors import InvalidValue
from cnlab.mesh.errors import MeshError, PortTaken

_FIRST_INSTANCE, _LAST_INSTANCE = 10, 254


_TOGETHER = (*itertools.combinations(("app", "outbound", "inbound", "metrics"), 2), ("gateway", "metrics"))
"""What listens at the same address: that of an instance, and that of the gateway."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens, on its own address; the numbers are Istio's."""

    app: int = 9080
    gateway: int = 8080
    outbound: int = 15001
    inbound: int = 15006
    monitoring: int = 15014
    metrics: int = 15090

    def __post_init__(self) -> None:
        for word, port in self.as_dict().items():
            if not isinstance(port, int) or not 1 <= port <= 65535:
                raise InvalidValue(f"Ports({word}={port!r}): a port is a number from 1 to 65535")
        for word, other in _TOGETHER:
            if getattr(self, word) == getattr(self, other):
                raise InvalidValue(
                    f"Ports: {word} and {other} are both {getattr(self, word)}, at one address"
                )

    def as_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return asdict(self)

    @property
    def of_sidecar(self) -> dict[str, int]:
        """Those of a sidecar."""
        return {"outbound": self.outbound, "inbound": self.inbound, "metrics": self.metrics}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance is to be."""

    address: str
    enter: tuple[str, ...] = ()  # a command that goes before the sidecar's
    launcher: Launcher | None = None  # of the app, if not any will do
    is_here: bool = True  # in our network namespace, where ports can be tried


class Places(Protocol):
    """Addresses for all that a mesh consists of."""

    @property
    def control_plane(self) -> str:
        """Address of the control plane."""

    @property
    def gateway(self) -> str:
        """Address of the ingress gateway."""

    def take(self, name: str) -> Place:
        """Return a place for an instance."""

    def release(self, name: str) -> None:
        """Take it back."""


class Subnet:
    """A /24 of the loopback network that this mesh has for itself."""

    def __init__(self, network: addresses.LoopbackNetwork) -> None:
        self.network = network
        self._free = list(range(_FIRST_INSTANCE, _LAST_INSTANCE))
        self._taken: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Subnet {self.network.prefix}.0/24>"

    @property
    def control_plane(self) -> str:
        """Address of the control plane."""
        return self.network.address(1)

    @property
    def gateway(self) -> str:
        """Address of the ingress gateway."""
        return self.network.address(2)

    def take(self, name: str) -> Place:
        """Return a place for an instance, which no other has."""
        if not self._free:
            raise MeshError(f"{self.network.prefix}.0/24: no address is free for {name}")
        self._taken[name] = self._free.pop(0)
        return Place(self.network.address(self._taken[name]))

    def release(self, name: str) -> None:
        """Let the place of an instance that is gone be another's."""
        self._free.append(self._taken.pop(name))


@contextlib.contextmanager
def reserve(ports: Ports, *, chance: random.Random | None = None) -> Iterator[Subnet]:
    """Reserve a /24 at random until the end of the block.

    Raises:
        PortTaken: a port is taken on every address, as by a server that listens on 0.0.0.0.
    """
    with addresses.reserve(chance=chance) as network:
        for word, port in ports.as_dict().items():
            if network.taken([port]):
                raise PortTaken(addresses.EVERYWHERE, port, word)
        yield Subnet(network)


def check_free(address: str, port: int, word: str) -> None:
    """Find out whether we could listen there.

    Raises:
        PortTaken: somebody does already; `word` says what the mesh needs the port for.
    """
    if not addresses.is_free(address, port):
        raise PortTaken(address, port, word)
