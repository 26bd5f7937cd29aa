"""A network of our own inside the machine: all of 127.0.0.0/8 belongs to the loopback interface.

So each instance can have an address of its own and the port that its field knows, without root and without
configuring anything.

See: RFC 1122, 3.2.1.3 (g); ip(7).
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from cnlab.errors import CnlabError, InvalidValue

_ATTEMPTS = 20
_PROBED_HOSTS = (1, 2, 10)


@dataclass(frozen=True, slots=True)
class LoopbackNetwork:
    """A /24 of loopback addresses: `prefix` is its first three numbers, such as ``127.83.12``."""

    prefix: str

    @classmethod
    def choose(
        cls, *, ports: Iterable[int] = (9080,), chance: random.Random | None = None
    ) -> LoopbackNetwork:
        """Choose one at random, on whose first addresses nobody uses any of `ports`.

        Two programs that choose at the same moment may still meet: who binds second is told.

        Raises:
            CnlabError: none was free.
        """
        chance = chance or random.SystemRandom()
        ports = tuple(ports)
        for _ in range(_ATTEMPTS):
            network = cls(f"127.{chance.randint(16, 254)}.{chance.randint(1, 254)}")
            if all(is_free(network.address(host), port) for host in _PROBED_HOSTS for port in ports):
                return network
        error = CnlabError(f"127.0.0.0/8: no network with free ports {', '.join(map(str, ports))}")
        error.add_note(f"Hint: a program that listens on 0.0.0.0:{ports[0]} takes that port of all; end it")
        raise error

    def address(self, host: int) -> str:
        """Return an address of this network.

        Raises:
            InvalidValue: `host` is not one of 1 to 254.
        """
        if not 1 <= host <= 254:
            raise InvalidValue(f"{self.prefix}.{host}: expected a host of 1 to 254")
        return f"{self.prefix}.{host}"


def is_free(address: str, port: int) -> bool:
    """Say whether a program could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
