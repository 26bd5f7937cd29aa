"""Ports that containers publish, in the words of ``docker run --publish`` and of its Python SDK.

``{"80/tcp": 8080}`` lets the host's port 8080 lead to the container's port 80. That an image declares a
port (``EXPOSE``) publishes nothing.
"""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from cnlab.errors import InvalidValue

PROTOCOLS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
ANY = "0.0.0.0"

HostPort = int | str | tuple[str, int] | tuple[str] | None
Ports = Mapping[str | int, HostPort | list[HostPort]]


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One published port; the host's port 0 is one that the kernel may choose."""

    container_port: int
    host_port: int
    protocol: str = "tcp"
    host_ip: str = ANY

    def __post_init__(self) -> None:
        if not 1 <= self.container_port <= 65535 or not 0 <= self.host_port <= 65535:
            raise InvalidValue(f"{self}: ports go from 1 to 65535, and 0 on the host's side is any free one")
        if self.protocol not in PROTOCOLS:
            raise InvalidValue(f"{self}: the protocols are {', '.join(PROTOCOLS)}")
        try:
            ipaddress.IPv4Address(self.host_ip)
        except ValueError:
            raise InvalidValue(f"{self}: {self.host_ip!r} is no IPv4 address of the host") from None

    def __str__(self) -> str:
        return f"{self.host_ip}:{self.host_port}->{self.container_port}/{self.protocol}"


def parse_ports(ports: Ports | None) -> tuple[PortMapping, ...]:
    """Read what the Docker SDK calls ``ports``.

    The keys are container ports: ``"80/tcp"``, ``"80"`` or ``80``. The values are the host's: a number,
    None for any free one, ``("127.0.0.1", 8080)``, or a list of these.
    """
    return tuple(
        mapping for container_port, host in (ports or {}).items() for mapping in _parse(container_port, host)
    )


def _parse(container_port: str | int, host: HostPort | list[HostPort]) -> Iterator[PortMapping]:
    match = re.fullmatch(r"(\d+)(?:/(\w+))?", str(container_port))
    if match is None:
        raise InvalidValue(f"{container_port!r} is no container port; expected one like '80/tcp' or 80")
    for one in host if isinstance(host, list) else [host]:
        host_ip, host_port = _parse_host(one)
        yield PortMapping(int(match[1]), host_port, match[2] or "tcp", host_ip)


def _parse_host(host: HostPort) -> tuple[str, int]:
    if isinstance(host, tuple):
        host_ip, *port = host
        return host_ip, port[0] if port else 0
    if host is None:
        return ANY, 0
    try:
        return ANY, int(host)
    except ValueError:
        raise InvalidValue(
            f"{host!r} is no host port; expected a number, None, or an address and a number"
        ) from None


@contextlib.contextmanager
def reserved(mappings: Iterable[PortMapping]) -> Iterator[tuple[PortMapping, ...]]:
    """Hold the host's ports, so that nobody else takes them, and choose those that are left open.

    Nobody listens on them: packets are led away before they would arrive.

    Raises:
        OSError: EADDRINUSE, a port is taken.
    """
    with contextlib.ExitStack() as held:
        chosen = []
        for mapping in mappings:
            holder = held.enter_context(socket.socket(socket.AF_INET, PROTOCOLS[mapping.protocol]))
            try:
                holder.bind((mapping.host_ip, mapping.host_port))
            except OSError as error:
                where = f"{mapping.host_ip}:{mapping.host_port}/{mapping.protocol}"
                raise OSError(error.errno, f"publish({where}): {error.strerror}") from None
            chosen.append(replace(mapping, host_port=holder.getsockname()[1]))
        yield tuple(chosen)
