"""Links, addresses, routes and neighbours of a network namespace: what ``ip`` does, without the program.

Interface: ``with Rtnetlink() as ip:`` opens a netlink socket in our network namespace, ``Rtnetlink(target)``
in another one. Each verb is one message, after one for the index of each link that is given by its name.

See: rtnetlink(7), ip-link(8), ip-address(8), ip-route(8), ip-neighbour(8).
"""

import ipaddress
import struct
from types import TracebackType
from typing import Self

from cnlab.errors import InvalidValue
from cnlab.linux import rtnetlink_messages as messages
from cnlab.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NetlinkSocket,
    attribute,
    number,
    parse_attributes,
)
from cnlab.linux.netns import NetNs, NetNsTarget, inside
from cnlab.linux.rtnetlink_messages import (
    Address,
    IpAddress,
    IpInterface,
    IpNetwork,
    Link,
    Neighbour,
    Route,
    link_attributes,
)

__all__ = ["Address", "Link", "Neighbour", "Route", "Rtnetlink"]

_NEW = NLM_F_CREATE | NLM_F_EXCL


class Rtnetlink:
    """A conversation with the kernel about the network of one namespace.

    Args:
        target: a process of that namespace, a path or a `NetNs`; by default the calling thread's own.
    """

    def __init__(self, target: NetNsTarget | None = None) -> None:
        if target is None:
            self._netlink = NetlinkSocket()
        else:
            with inside(target):
                self._netlink = NetlinkSocket()

    def close(self) -> None:
        """End the conversation."""
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Links

    def links(self) -> list[Link]:
        """Return all links, by index."""
        found = self._netlink.dump(messages.RTM_GETLINK, messages.ifinfomsg(), call="links()")
        return [Link.parse(body) for _, body in found]

    def link(self, link: str | int) -> Link:
        """Return one link.

        Raises:
            OSError: ENODEV, there is none of that name or index.
        """
        answers = self._netlink.request(messages.RTM_GETLINK, _which(link), call=f"link({link})")
        ((_, answer),) = answers
        return Link.parse(answer)

    def add_bridge(
        self, name: str, *, mac: str | None = None, mtu: int | None = None, up: bool = False
    ) -> None:
        """Make a bridge: a switch whose ports are the links that have it as their master."""
        self._add(f"add_bridge({name})", up, link_attributes(name=name, mac=mac, mtu=mtu), "bridge")

    def add_dummy(
        self, name: str, *, mac: str | None = None, mtu: int | None = None, up: bool = False
    ) -> None:
        """Make a link that drops what it is given; good for holding addresses."""
        self._add(f"add_dummy({name})", up, link_attributes(name=name, mac=mac, mtu=mtu), "dummy")

    def add_veth(
        self,
        name: str,
        *,
        peer: str,
        peer_netns: NetNsTarget | None = None,
        peer_mac: str | None = None,
        master: str | int | None = None,
        mac: str | None = None,
        mtu: int | None = None,
        up: bool = False,
    ) -> None:
        """Make a cable with two ends, each a link: what goes in at one comes out at the other.

        Args:
            name: of our end.
            peer: name of the other end.
            peer_netns: the namespace that the other end is born in.
            peer_mac: hardware address of the other end.
            master: the bridge that our end is plugged into.
            mac: hardware address of our end; by default the kernel invents both.
            mtu: of both ends, bytes.
            up: whether our end is up at once; the other end must be set up where it is.

        See: veth(4).
        """
        call = f"add_veth({name}, {peer})"
        with NetNs.current() if peer_netns is None else NetNs.open(peer_netns) as there:
            fd = None if peer_netns is None else there.fd
            other = link_attributes(name=peer, mac=peer_mac, mtu=mtu, netns_fd=fd)
            data = attribute(messages.VETH_INFO_PEER, messages.ifinfomsg() + other)
            own = link_attributes(name=name, mac=mac, mtu=mtu, master=self._master(master))
            self._add(call, up, own, "veth", data)

    def add_vxlan(
        self,
        name: str,
        *,
        vni: int,
        local: str,
        remote: str,
        port: int = 4789,
        master: str | int | None = None,
        mtu: int | None = None,
        up: bool = False,
    ) -> None:
        """Make a tunnel end that packs frames into UDP datagrams to `remote`.

        `vni` tells networks apart that share the tunnel. 50 bytes of each packet go to the outer headers:
        over a link of 1500 bytes its `mtu` is 1450.

        See: RFC 7348, ip-link(8) "VXLAN Type Support".
        """
        data = attribute(messages.IFLA_VXLAN_ID, vni)
        data += attribute(messages.IFLA_VXLAN_LOCAL, ipaddress.IPv4Address(local).packed)
        data += attribute(messages.IFLA_VXLAN_GROUP, ipaddress.IPv4Address(remote).packed)
        data += attribute(messages.IFLA_VXLAN_PORT, struct.pack("!H", port))
        own = link_attributes(name=name, mtu=mtu, master=self._master(master))
        self._add(f"add_vxlan({name})", up, own, "vxlan", data)

    def add_macvlan(
        self,
        name: str,
        *,
        parent: str | int,
        mode: str = "bridge",
        netns: NetNsTarget | None = None,
        mac: str | None = None,
        up: bool = False,
    ) -> None:
        """Give the link `parent` a second hardware address, and a link for it, which may be elsewhere.

        The link is named in our namespace and may be born in `netns`.
        """
        if mode not in messages.MACVLAN_MODES:
            raise InvalidValue(
                f"unknown macvlan mode {mode!r}; the modes are {', '.join(messages.MACVLAN_MODES)}"
            )
        with NetNs.current() if netns is None else NetNs.open(netns) as there:
            own = link_attributes(name=name, mac=mac, netns_fd=None if netns is None else there.fd)
            own += attribute(messages.IFLA_LINK, self._index(parent))
            data = attribute(messages.IFLA_MACVLAN_MODE, messages.MACVLAN_MODES[mode])
            self._add(f"add_macvlan({name})", up, own, "macvlan", data)

    def _add(self, call: str, up: bool, attributes: bytes, kind: str, data: bytes = b"") -> None:
        body = messages.ifinfomsg(up=True if up else None) + attributes + messages.link_info(kind, data)
        self._netlink.request(messages.RTM_NEWLINK, body, _NEW, call=call)

    def set_link(
        self,
        link: str | int,
        *,
        up: bool | None = None,
        master: str | int | None = None,
        rename: str | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        netns: NetNsTarget | None = None,
        alias: str | None = None,
        hairpin: bool | None = None,
    ) -> None:
        """Change what is given of a link, like ``ip link set``; what is None stays as it is.

        Args:
            link: name or index.
            up: switch it on or off.
            master: the bridge to be a port of; ``""`` for none.
            rename: its new name; most kernels want it down for that.
            mtu: bytes.
            mac: hardware address.
            netns: the namespace to move it to; its addresses and routes stay behind, lost.
            alias: a remark, shown by ``ip link``.
            hairpin: whether the bridge it is a port of may send a frame back where it came from.
        """
        index = self._index(link)
        with NetNs.current() if netns is None else NetNs.open(netns) as there:
            attributes = link_attributes(
                name=rename,
                mtu=mtu,
                mac=mac,
                master=self._master(master),
                alias=alias,
                netns_fd=None if netns is None else there.fd,
            )
            if hairpin is not None:
                mode = attribute(messages.IFLA_BRPORT_MODE, bytes([hairpin]))
                port = attribute(messages.IFLA_INFO_SLAVE_KIND, "bridge")
                port += attribute(messages.IFLA_INFO_SLAVE_DATA, mode)
                attributes += attribute(messages.IFLA_LINKINFO, port)
            body = messages.ifinfomsg(index, up=up) + attributes
            self._netlink.request(messages.RTM_NEWLINK, body, call=f"set_link({link})")

    def delete_link(self, link: str | int) -> None:
        """Remove a link; of a veth pair both ends go."""
        self._netlink.request(messages.RTM_DELLINK, _which(link), call=f"delete_link({link})")

    # Addresses

    def addresses(self, link: str | int | None = None) -> list[Address]:
        """Return the addresses of a link, or of all."""
        index = None if link is None else self._index(link)
        found = self._netlink.dump(messages.RTM_GETADDR, messages.RTGENMSG.pack(0), call="addresses()")
        addresses = [Address.parse(body) for _, body in found]
        return [address for address in addresses if index in (None, address.link_index)]

    def add_address(self, link: str | int, address: str | IpInterface) -> None:
        """Give a link an address such as "10.0.0.2/24"; the kernel adds the route to its network."""
        body = messages.address_body(self._index(link), ipaddress.ip_interface(address))
        self._netlink.request(messages.RTM_NEWADDR, body, _NEW, call=f"add_address({link}, {address})")

    def delete_address(self, link: str | int, address: str | IpInterface) -> None:
        """Take an address from a link."""
        body = messages.address_body(self._index(link), ipaddress.ip_interface(address))
        self._netlink.request(messages.RTM_DELADDR, body, call=f"delete_address({link}, {address})")

    # Routes

    def routes(self) -> list[Route]:
        """Return the routes of the main table, IPv4's first."""
        found = self._netlink.dump(messages.RTM_GETROUTE, messages.RTGENMSG.pack(0), call="routes()")
        routes = [Route.parse(body) for _, body in found]
        return [route for route in routes if route.table == messages.RT_TABLE_MAIN]

    def add_route(
        self,
        destination: str | IpNetwork,
        *,
        via: str | IpAddress | None = None,
        link: str | int | None = None,
        kind: str = "unicast",
        metric: int | None = None,
    ) -> None:
        """Send what goes to `destination`, a network or "default", to the gateway `via` or out by `link`."""
        body = self._route(destination, via, link, kind, metric)
        self._netlink.request(messages.RTM_NEWROUTE, body, _NEW, call=f"add_route({destination})")

    def delete_route(
        self,
        destination: str | IpNetwork,
        *,
        via: str | IpAddress | None = None,
        link: str | int | None = None,
        kind: str = "unicast",
        metric: int | None = None,
    ) -> None:
        """Remove a route; say of it what `add_route` was told."""
        body = self._route(destination, via, link, kind, metric)
        self._netlink.request(messages.RTM_DELROUTE, body, call=f"delete_route({destination})")

    def _route(
        self,
        destination: str | IpNetwork,
        via: str | IpAddress | None,
        link: str | int | None,
        kind: str,
        metric: int | None,
    ) -> bytes:
        gateway = None if via is None else ipaddress.ip_address(via)
        if destination == "default" and gateway is not None and gateway.version == 6:
            destination = "::/0"
        index = None if link is None else self._index(link)
        network = messages.parse_network(destination)
        return messages.route_body(network, via=gateway, index=index, kind=kind, metric=metric)

    # Neighbours

    def neighbours(self) -> list[Neighbour]:
        """Return the neighbours known: the ARP table, and IPv6's."""
        body = messages.neighbour_body(0)
        found = self._netlink.dump(messages.RTM_GETNEIGH, body, call="neighbours()")
        return [Neighbour.parse(body) for _, body in found]

    def add_neighbour(self, link: str | int, address: str | IpAddress, mac: str) -> None:
        """Say once and for all which hardware address `address` has, whatever was found out before."""
        body = messages.neighbour_body(self._index(link), ipaddress.ip_address(address), mac)
        flags = NLM_F_CREATE | NLM_F_REPLACE
        self._netlink.request(messages.RTM_NEWNEIGH, body, flags, call=f"add_neighbour({address})")

    def delete_neighbour(self, link: str | int, address: str | IpAddress) -> None:
        """Forget a neighbour."""
        body = messages.neighbour_body(self._index(link), ipaddress.ip_address(address), None)
        self._netlink.request(messages.RTM_DELNEIGH, body, call=f"delete_neighbour({address})")

    # Namespaces

    def nsid(self, target: NetNsTarget) -> int | None:
        """Return the number that our namespace knows another one by, as in `Link.peer_nsid`; None: by none.

        The kernel gives such a number when a link first leads from one to the other.
        """
        with NetNs.open(target) as there:
            body = messages.RTGENMSG.pack(0) + attribute(messages.NETNSA_FD, there.fd)
            ((_, answer),) = self._netlink.request(messages.RTM_GETNSID, body, call="nsid()")
        found = number(parse_attributes(answer, messages.RTGENMSG.size)[messages.NETNSA_NSID])
        return None if found == 0xFFFF_FFFF else found

    def _index(self, link: str | int) -> int:
        return link if isinstance(link, int) else self.link(link).index

    def _master(self, master: str | int | None) -> int | None:
        if master is None:
            return None
        return 0 if master == "" else self._index(master)


def _which(link: str | int) -> bytes:
    if isinstance(link, str):
        return messages.ifinfomsg() + link_attributes(name=link)
    return messages.ifinfomsg(link)
