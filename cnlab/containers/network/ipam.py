"""IP address management: which subnet a network gets, and which address a container in it.

Choosing is pure; who has what is remembered in memory (`Pool`) or in a directory (`LeaseDirectory`), which
is laid out as the CNI reference plugin ``host-local`` does it, so that each can read the other's.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from cnlab.errors import CnlabError, InvalidValue

SUBNETS = IPv4Network("10.89.0.0/16")


class AddressesExhausted(CnlabError):  # noqa: N818 - reads as the claim it makes
    """All addresses of a subnet are in use."""


def parse_subnet(subnet: str | IPv4Network) -> IPv4Network:
    """Read a subnet that has room for a gateway and a container."""
    try:
        network = IPv4Network(subnet)
    except ValueError as error:
        raise InvalidValue(
            f"{subnet!r} is no IPv4 subnet: {error}; expected one like '10.89.0.0/24'"
        ) from None
    if network.prefixlen > 30:
        raise InvalidValue(
            f"subnet {network} has no room for a gateway and a container; the smallest is a /30"
        )
    return network


def free_subnet(used: Iterable[IPv4Network]) -> IPv4Network:
    """Return the first /24 of `SUBNETS` that overlaps with none of the networks in use."""
    taken = [network for network in used if network.prefixlen]
    for subnet in SUBNETS.subnets(new_prefix=24):
        if not any(subnet.overlaps(network) for network in taken):
            return subnet
    raise AddressesExhausted(f"no /24 of {SUBNETS} is free; name a subnet")


def gateway_of(subnet: IPv4Network) -> IPv4Address:
    """Return the first address of a subnet, which is the bridge's."""
    return subnet.network_address + 1


def next_free(
    subnet: IPv4Network, taken: Collection[IPv4Address], *, after: IPv4Address | None = None
) -> IPv4Address:
    """Return the next address that is free, going round from `after`.

    Going round keeps an address unused for long after its container has gone: others may still remember it.
    """
    first, count = int(subnet.network_address), subnet.num_addresses
    start = 0 if after is None else int(after) - first
    for step in range(1, count + 1):
        offset = (start + step) % count
        address = IPv4Address(first + offset)
        if (
            0 < offset < count - 1 and address not in taken
        ):  # not the network's own, nor the broadcast address
            return address
    raise AddressesExhausted(f"all {count - 2} addresses of {subnet} are in use")


class Pool:
    """The addresses of one subnet, remembered as long as this object."""

    def __init__(self, subnet: IPv4Network) -> None:
        self.subnet = subnet
        self.gateway = gateway_of(subnet)
        self._owners: dict[IPv4Address, str] = {self.gateway: "gateway"}
        self._last = self.gateway

    def allocate(self, owner: str, wanted: str | IPv4Address | None = None) -> IPv4Interface:
        """Give `owner` the address it wants, or the next one that is free."""
        if wanted is None:
            address = self._last = next_free(self.subnet, self._owners, after=self._last)
        else:
            address = _wanted(wanted, self.subnet, self._owners.get)
        self._owners[address] = owner
        return IPv4Interface((address, self.subnet.prefixlen))

    def release(self, address: IPv4Address) -> None:
        """Take an address back; does nothing if nobody has it."""
        self._owners.pop(address, None)


class LeaseDirectory:
    """Leases of one network on disk: for each address a file with the container's id and its link's name.

    Args:
        path: the directory, made if need be.
        subnet: what to lease from.
        gateway: the address that is never leased.
    """

    def __init__(self, path: Path, subnet: IPv4Network, gateway: IPv4Address) -> None:
        self.path = path
        self.subnet = subnet
        self.gateway = gateway

    def allocate(
        self, container_id: str, ifname: str, wanted: str | IPv4Address | None = None
    ) -> IPv4Interface:
        """Lease the address wanted, or the next one that is free."""
        with self._locked():
            leases = self.leases()
            if wanted is None:
                last = self.path / "last_reserved_ip.0"
                after = IPv4Address(last.read_text().strip()) if last.exists() else self.gateway
                address = next_free(self.subnet, {self.gateway, *leases}, after=after)
                last.write_text(str(address))
            else:
                owners = {address: container for address, (container, _) in leases.items()}
                address = _wanted(wanted, self.subnet, ({self.gateway: "gateway"} | owners).get)
            (self.path / str(address)).write_bytes(f"{container_id}\r\n{ifname}".encode())
        return IPv4Interface((address, self.subnet.prefixlen))

    def leases(self) -> dict[IPv4Address, tuple[str, str]]:
        """Return who has which address: container id and link name."""
        found = {}
        for name in os.listdir(self.path) if self.path.exists() else ():
            with contextlib.suppress(ValueError):  # not the name of a lease
                address = IPv4Address(name)
                container_id, _, ifname = (self.path / name).read_bytes().decode().partition("\r\n")
                found[address] = (container_id, ifname)
        return found

    def release(self, is_over: Callable[[str, str], bool]) -> None:
        """End the leases for whose container id and link name `is_over` is true."""
        if not self.path.exists():
            return
        with self._locked():
            for address, owner in self.leases().items():
                if is_over(*owner):
                    (self.path / str(address)).unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the network's lock: plugins for several containers run at the same time."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _wanted(
    wanted: str | IPv4Address, subnet: IPv4Network, owner_of: Callable[[IPv4Address], str | None]
) -> IPv4Address:
    try:
        address = IPv4Address(wanted)
    except ValueError:
        raise InvalidValue(f"{wanted!r} is no IPv4 address") from None
    if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
        raise InvalidValue(f"{address} is no address for a container in {subnet}")
    if (owner := owner_of(address)) is not None:
        raise InvalidValue(f"{address} is in use by {owner}")
    return address
