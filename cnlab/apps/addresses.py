"""A network of our own inside the machine: all of 127.0.0.0/8 belongs to the loopback interface.

So each instance can have an address of its own and the port that its field knows, without root and without
configuring anything.

See: RFC 1122, 3.2.1.3 (g); ip(7).
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cnlab.errors import CnlabError, InvalidValue

_ATTEMPTS = 50
_LAST_HOST = 254
EVERYWHERE = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class LoopbackNetwork:
    """A /24 of loopback addresses: `prefix` is its first three numbers, such as ``127.83.12``."""

    prefix: str

    def address(self, host: int) -> str:
        """Return an address of this network.

        Raises:
            InvalidValue: `host` is not one of 1 to 254.
        """
        if not 1 <= host <= _LAST_HOST:
            raise InvalidValue(f"{self.prefix}.{host}: expected a host of 1 to {_LAST_HOST}")
        return f"{self.prefix}.{host}"

    def taken(self, ports: Iterable[int]) -> int | None:
        """Return one of these ports that somebody has on all addresses of the machine, so here too."""
        return next((port for port in ports if not is_free(self.address(_LAST_HOST), port)), None)


@contextlib.contextmanager
def reserve(*, chance: random.Random | None = None) -> Iterator[LoopbackNetwork]:
    """Reserve a network at random until the end of the block: no other of us, of whatever user, gets it.

    Raises:
        CnlabError: none was free.
    """
    chance = chance or random.SystemRandom()
    for _ in range(_ATTEMPTS):
        network = LoopbackNetwork(f"127.{chance.randint(16, 254)}.{chance.randint(1, 254)}")
        with socket.socket(socket.AF_UNIX) as reservation:
            try:
                reservation.bind(f"\0cnlab-{network.prefix}")  # abstract: gone with the process, one a netns
            except OSError:
                continue
            yield network
            return
    raise CnlabError(f"127.0.0.0/8: no network that nobody has reserved was found in {_ATTEMPTS} attempts")


def is_free(address: str, port: int) -> bool:
    """Say whether a program could listen there now.

    Raises:
        PermissionError: we never could.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except PermissionError as error:
            raise PermissionError(
                error.errno, f"bind({address}:{port}): a port below 1024 is root's"
            ) from None
        except OSError:
            return False
    return True
