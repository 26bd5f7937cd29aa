"""A container network: a bridge, a cable to each container, NAT, published ports and names.

``with Network("net0") as net:`` is ``docker network create``, `Network.attach` is ``docker network
connect``. The host's side is the network namespace of whoever enters the block; a container may be any
process or namespace. At the end of the block everything is gone, also if this process is killed.

See: ip-link(8) on bridges, veth(4); `nat`, `names`, `ipam` for the parts.
"""

import contextlib
import re
import secrets
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self

from cnlab.containers.network import ipam, nat, plumbing
from cnlab.containers.network.last_will import LastWill
from cnlab.containers.network.names import NameServer
from cnlab.containers.network.ports import PortMapping, Ports, parse_ports, reserved
from cnlab.errors import InvalidValue
from cnlab.host import find_program
from cnlab.linux.netns import NetNs, NetNsTarget, inside
from cnlab.linux.rtnetlink import Rtnetlink

_EVERYWHERE = IPv4Network("0.0.0.0/0")
_FORWARDING_WAS_OFF = "cnlab: ip_forward was 0"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container's place in a network."""

    name: str
    interface: str  # in the container: "eth0", ...
    address: IPv4Interface
    gateway: IPv4Address
    mac: str
    host_interface: str  # the cable's other end, a port of the bridge
    ports: tuple[PortMapping, ...] = ()
    aliases: tuple[str, ...] = ()


class Network:
    """A network for containers on this host.

    Args:
        name: of the network and of its bridge: at most 15 letters, digits, ``_``, ``.`` and ``-``.
        subnet: such as "10.89.0.0/24"; by default one that is free here. Its first address is the bridge's.
        internal: whether nothing leaves the network for the world outside.
        mtu: of all links, bytes.

    Raises:
        InvalidValue: a name or subnet that cannot be.
        FileExistsError: on entering, there is a link of that name.
        PermissionError: on entering, this needs root.
    """

    def __init__(
        self,
        name: str,
        *,
        subnet: str | IPv4Network | None = None,
        internal: bool = False,
        mtu: int = 1500,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,14}", name, re.ASCII):
            raise InvalidValue(
                f"{name!r} is no name for a network; expected at most 15 letters, digits, '_', '.' and '-'"
            )
        self.name = self.bridge = name
        self.internal = internal
        self.mtu = mtu
        self.attachments: dict[str, Attachment] = {}
        self._wanted_subnet = None if subnet is None else ipam.parse_subnet(subnet)
        self._held: dict[str, contextlib.ExitStack] = {}
        self._lock = threading.RLock()
        self._is_open = False

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._home = stack.enter_context(NetNs.current())
            self._ip = stack.enter_context(Rtnetlink())
            self.backend = nat.backend()
            self.subnet = self._wanted_subnet or ipam.free_subnet(self._used())
            self._pool = ipam.Pool(self.subnet)
            self.gateway = self._pool.gateway
            try:
                self._make_bridge(stack)
            except PermissionError as error:
                error.add_note(
                    "Hint: only root may; choose the kernel 'Cloud Native Lab', where you are root"
                )
                raise
            self.rules.apply(self.backend)
            stack.callback(lambda: nat.run(self.rules.removal(self.backend)))
            stack.enter_context(NameServer(self.gateway, lookup=self.resolve, reverse=self._name_of))
            self._stack = stack.pop_all()
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock, inside(self._home), self._stack, contextlib.ExitStack() as attachments:
            self._is_open = False
            for held in self._held.values():
                attachments.enter_context(held)
            self._held.clear()

    def _used(self) -> list[IPv4Network]:
        """Return the networks that this host knows a way to."""
        found = [address.interface.network for address in self._ip.addresses()]
        found += [route.destination for route in self._ip.routes()]
        return [network for network in found if isinstance(network, IPv4Network)]

    def _make_bridge(self, stack: contextlib.ExitStack) -> None:
        """Make the bridge, let it forward, and see to its end."""
        forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
        was_off = not forwards or self._forwarding_was_off()
        own = IPv4Interface((self.gateway, self.subnet.prefixlen))
        plumbing.make_bridge(self._ip, self.bridge, own, mtu=self.mtu)
        stack.callback(self._ip.delete_link, self.bridge)
        stack.enter_context(LastWill(self._will(was_off)))
        if was_off:
            self._ip.set_link(self.bridge, alias=_FORWARDING_WAS_OFF)
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            stack.callback(self._stop_forwarding)

    def _forwarding_was_off(self) -> bool:
        """Whether a bridge remembers that this host did not forward before we came."""
        return any(link.alias == _FORWARDING_WAS_OFF for link in self._ip.links())

    def _stop_forwarding(self) -> None:
        """Stop, unless another network still needs it; that one remembers to stop in the end."""
        self._ip.set_link(self.bridge, alias="")
        if not self._forwarding_was_off():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("0")

    def _will(self, was_off: bool) -> str:
        """Return the shell script that removes what would outlive us."""
        ip, removal = str(find_program("ip") or "ip"), self.rules.removal(self.backend)
        lines = [f"{shlex.join(removal.argv)} <<'END'\n{removal.text}END", f"{ip} link delete {self.bridge}"]
        if was_off:
            stop = "echo 0 >/proc/sys/net/ipv4/ip_forward"
            lines.append(f"{ip} link | grep -q '{_FORWARDING_WAS_OFF}' || {stop}")
        return "\n".join(lines)

    @property
    def rules(self) -> nat.Rules:
        """The NAT and filter rules that are loaded: ``print(net.rules.nft())``."""
        published = tuple(
            nat.Published(mapping, attachment.address.ip)
            for attachment in self.attachments.values()
            for mapping in attachment.ports
        )
        return nat.Rules(self.name, self.bridge, self.subnet, published, internal=self.internal)

    def _reload_rules(self) -> None:
        if self._is_open:  # else they are removed as a whole
            self.rules.apply(self.backend, replacing=True)

    # Containers

    def attach(
        self,
        target: NetNsTarget,
        *,
        name: str,
        ports: Ports | None = None,
        aliases: Sequence[str] = (),
        address: str | IPv4Address | None = None,
        interface: str | None = None,
    ) -> Attachment:
        """Connect a container, and set its loopback up.

        Args:
            target: its pid, an object with one, or its network namespace.
            name: what the others of this network call it.
            ports: what it publishes, in the Docker SDK's words: ``{"80/tcp": 8080}``.
            aliases: more names; several containers may share one.
            address: by default the next that is free.
            interface: what it calls the link; by default eth0, or the next ethN that is free.

        Raises:
            InvalidValue: the name or the address is taken.
            OSError: EADDRINUSE, a published port is taken; or the kernel refused. Nothing is left behind.
        """
        with self._lock, inside(self._home), contextlib.ExitStack() as stack:
            self._require_name(name)
            own = self._pool.allocate(name, address)
            stack.callback(self._pool.release, own.ip)
            published = stack.enter_context(reserved(parse_ports(ports)))
            with NetNs.open(target) as there:
                interface, host_interface = self._plug_in(stack, there, own, name, interface)
            attachment = Attachment(
                name,
                interface,
                own,
                self.gateway,
                plumbing.mac_of(own.ip),
                host_interface,
                published,
                tuple(aliases),
            )
            if published:
                stack.callback(self._reload_rules)
            stack.callback(self.attachments.pop, name)
            self.attachments[name] = attachment
            if published:
                self._reload_rules()
            self._held[name] = stack.pop_all()
        return attachment

    def _require_name(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,62}", name, re.ASCII):
            raise InvalidValue(
                f"{name!r} is no name for a container; expected letters, digits, '_', '.' and '-'"
            )
        if name in self.attachments:
            raise InvalidValue(f"network {self.name} has a container {name!r} already")

    def _plug_in(
        self, stack: contextlib.ExitStack, there: NetNs, own: IPv4Interface, name: str, wanted: str | None
    ) -> tuple[str, str]:
        """Lay the cable; return the names of its ends, the container's first."""
        with Rtnetlink(there) as container:
            links = [link.name for link in container.links()]
            has_default = any(route.is_default for route in container.routes())
        interface = wanted or next(f"eth{n}" for n in range(len(links) + 1) if f"eth{n}" not in links)
        readable = f"veth-{name}"[:15]
        is_taken = readable in (link.name for link in self._ip.links())
        host_interface = f"veth{secrets.token_hex(5)}" if is_taken else readable
        plumbing.connect(
            self._ip,
            there,
            bridge=self.bridge,
            host_interface=host_interface,
            interface=interface,
            address=own,
            routes=() if has_default or self.internal else [(_EVERYWHERE, self.gateway)],
            mtu=self.mtu,
        )
        stack.callback(plumbing.disconnect, self._ip, host_interface)
        return interface, host_interface

    def detach(self, attachment: Attachment) -> None:
        """Disconnect a container, which may have died meanwhile; one that is not connected is left alone."""
        with self._lock, inside(self._home):
            if self.attachments.get(attachment.name) == attachment:
                self._held.pop(attachment.name).close()

    # Names

    def resolve(self, name: str) -> tuple[IPv4Address, ...]:
        """Return the addresses of a container by its name or alias, also as ``NAME.NETWORK``; () for none."""
        short = name.lower().removesuffix(".").removesuffix(f".{self.name.lower()}")
        return tuple(
            attachment.address.ip
            for attachment in tuple(self.attachments.values())
            if short in (known.lower() for known in (attachment.name, *attachment.aliases))
        )

    def _name_of(self, address: IPv4Address) -> str | None:
        names = {attachment.address.ip: attachment.name for attachment in tuple(self.attachments.values())}
        return names.get(address)

    @property
    def resolv_conf(self) -> str:
        """What ``/etc/resolv.conf`` should say in a container of this network."""
        return f"nameserver {self.gateway}\noptions ndots:0\n"

    def hosts_file(self, attachment: Attachment, hostname: str | None = None) -> str:
        """Return what ``/etc/hosts`` should say in the container."""
        names = dict.fromkeys(filter(None, (hostname, attachment.name)))
        return f"127.0.0.1\tlocalhost\n{attachment.address.ip}\t{' '.join(names)}\n"
