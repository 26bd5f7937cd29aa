"""What rtnetlink speaks of: links, addresses, routes and neighbours, from and to the bytes of their messages.

Nothing here asks the kernel. Each dataclass shows the C structure that its messages begin with; the rest are
attributes, of which these are the ones that containers need.

See: rtnetlink(7); ``linux/rtnetlink.h``, ``if_link.h``, ``if_addr.h``, ``neighbour.h``.
"""

import ipaddress
import socket
import struct
from dataclasses import dataclass

from cnlab.errors import InvalidValue
from cnlab.linux.netlink import attribute, number, parse_attributes, text

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_GETNSID = 90

IFF_UP = 0x1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_NET_NS_FD, IFLA_LINK_NETNSID = 16, 18, 20, 28, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE = 4  # hairpin: whether a frame may leave by the port it came in
VETH_INFO_PEER = 1
IFLA_MACVLAN_MODE = 1
IFLA_VXLAN_ID, IFLA_VXLAN_GROUP, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_PORT = 1, 2, 3, 4, 15
NETNSA_NSID, NETNSA_FD = 1, 3
IFA_ADDRESS, IFA_LOCAL, IFA_LABEL = 1, 2, 3
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
NDA_DST, NDA_LLADDR = 1, 2

RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
ROUTE_KINDS = {
    **{"unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5},
    **{"blackhole": 6, "unreachable": 7, "prohibit": 8, "throw": 9},
}
NUD_PERMANENT = 0x80
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
NEIGHBOUR_STATES = {
    **{0x01: "incomplete", 0x02: "reachable", 0x04: "stale", 0x08: "delay"},
    **{0x10: "probe", 0x20: "failed", 0x40: "noarp", NUD_PERMANENT: "permanent"},
}
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}

_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxHiHBB")
RTGENMSG = struct.Struct("=B3x")
"""``struct rtgenmsg``: an address family, with padding."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface, by the kernel's older name.

    ::

        struct ifinfomsg {
            unsigned char  ifi_family;  /* AF_UNSPEC */
            unsigned short ifi_type;    /* ARPHRD_ETHER, ARPHRD_LOOPBACK, ... */
            int            ifi_index;
            unsigned int   ifi_flags;   /* IFF_UP, ... */
            unsigned int   ifi_change;  /* which flags to change */
        };
    """

    index: int
    name: str
    kind: str  # "veth", "bridge", ...; "" for hardware and lo
    mac: str
    mtu: int
    is_up: bool  # as its administrator wants it; `operstate` says whether it works
    operstate: str
    master: int | None  # index of the bridge that it is a port of
    peer: int | None  # IFLA_LINK: index of a veth's other end, or of the link that this one is built on
    peer_nsid: int | None  # what our namespace calls the one that `peer` is in; None is our own
    alias: str

    @classmethod
    def parse(cls, body: bytes) -> "Link":
        """Read an ``RTM_NEWLINK`` body."""
        _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
        found = parse_attributes(body, _IFINFOMSG.size)
        info = parse_attributes(found.get(IFLA_LINKINFO, b""))
        peer = _optional_number(found, IFLA_LINK)
        return cls(
            index=index,
            name=text(found[IFLA_IFNAME]),
            kind=text(info.get(IFLA_INFO_KIND, b"")),
            mac=found.get(IFLA_ADDRESS, b"").hex(":"),
            mtu=number(found.get(IFLA_MTU, b"")),
            is_up=bool(flags & IFF_UP),
            operstate=OPERSTATES[number(found.get(IFLA_OPERSTATE, b""))],
            master=_optional_number(found, IFLA_MASTER),
            peer=peer or None,
            peer_nsid=_optional_number(found, IFLA_LINK_NETNSID),
            alias=text(found.get(IFLA_IFALIAS, b"")),
        )


def ifinfomsg(index: int = 0, *, up: bool | None = None) -> bytes:
    """Pack a ``struct ifinfomsg``; `up` None leaves the link as it is."""
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP)


def link_attributes(
    *,
    name: str | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    master: int | None = None,
    alias: str | None = None,
    netns_fd: int | None = None,
) -> bytes:
    """Pack what any link has; None leaves it out, the master 0 is no master."""
    packed = b""
    if name is not None:
        packed += attribute(IFLA_IFNAME, _link_name(name))
    if mac is not None:
        packed += attribute(IFLA_ADDRESS, _mac(mac))
    if alias is not None:
        packed += attribute(IFLA_IFALIAS, alias.encode())
    for kind, value in ((IFLA_MTU, mtu), (IFLA_MASTER, master), (IFLA_NET_NS_FD, netns_fd)):
        if value is not None:
            packed += attribute(kind, value)
    return packed


def link_info(kind: str, data: bytes = b"") -> bytes:
    """Pack the kind of a new link and what only that kind has."""
    return attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind) + attribute(IFLA_INFO_DATA, data))


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link, with the length of the prefix that it shares with its neighbours.

    ::

        struct ifaddrmsg {
            __u8  ifa_family;     /* AF_INET, AF_INET6 */
            __u8  ifa_prefixlen;
            __u8  ifa_flags;
            __u8  ifa_scope;
            __u32 ifa_index;      /* of the link */
        };
    """

    link_index: int
    interface: IpInterface
    scope: str
    label: str

    @classmethod
    def parse(cls, body: bytes) -> "Address":
        """Read an ``RTM_NEWADDR`` body."""
        _, prefix_length, _, scope, index = _IFADDRMSG.unpack_from(body)
        found = parse_attributes(body, _IFADDRMSG.size)
        # On a point-to-point link IFA_ADDRESS is the other end's.
        own = ipaddress.ip_address(found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b"")))
        interface = ipaddress.ip_interface((own, prefix_length))
        return cls(index, interface, SCOPES.get(scope, str(scope)), text(found.get(IFA_LABEL, b"")))


def address_body(index: int, interface: IpInterface) -> bytes:
    """Pack the body of ``RTM_NEWADDR`` or ``RTM_DELADDR``."""
    header = _IFADDRMSG.pack(_family(interface), interface.network.prefixlen, 0, 0, index)
    return header + attribute(IFA_LOCAL, interface.packed) + attribute(IFA_ADDRESS, interface.packed)


@dataclass(frozen=True, slots=True)
class Route:
    """Where packets to `destination` go next.

    ::

        struct rtmsg {
            unsigned char rtm_family;
            unsigned char rtm_dst_len;  /* length of the destination's prefix; 0: default route */
            unsigned char rtm_src_len;
            unsigned char rtm_tos;
            unsigned char rtm_table;    /* RT_TABLE_MAIN, ... */
            unsigned char rtm_protocol; /* who made it: RTPROT_KERNEL, RTPROT_BOOT, ... */
            unsigned char rtm_scope;
            unsigned char rtm_type;     /* RTN_UNICAST, RTN_UNREACHABLE, ... */
            unsigned int  rtm_flags;
        };
    """

    destination: IpNetwork
    gateway: IpAddress | None
    link_index: int | None
    source: IpAddress | None  # preferred source address
    kind: str  # "unicast", "unreachable", ...
    scope: str
    metric: int
    table: int

    @property
    def is_default(self) -> bool:
        """Whether it is for all that no other route is for."""
        return self.destination.prefixlen == 0

    @classmethod
    def parse(cls, body: bytes) -> "Route":
        """Read an ``RTM_NEWROUTE`` body."""
        family, length, _, _, table, _, scope, kind, _ = _RTMSG.unpack_from(body)
        found = parse_attributes(body, _RTMSG.size)
        size = 4 if family == socket.AF_INET else 16
        gateway, source = found.get(RTA_GATEWAY), found.get(RTA_PREFSRC)
        return cls(
            destination=ipaddress.ip_network((found.get(RTA_DST, bytes(size)), length)),
            gateway=ipaddress.ip_address(gateway) if gateway else None,
            link_index=_optional_number(found, RTA_OIF),
            source=ipaddress.ip_address(source) if source else None,
            kind=next((name for name, value in ROUTE_KINDS.items() if value == kind), str(kind)),
            scope=SCOPES.get(scope, str(scope)),
            metric=number(found.get(RTA_PRIORITY, b"")),
            table=_optional_number(found, RTA_TABLE) or table,
        )


def route_body(
    destination: IpNetwork, *, via: IpAddress | None, index: int | None, kind: str, metric: int | None
) -> bytes:
    """Pack the body of ``RTM_NEWROUTE`` or ``RTM_DELROUTE`` in the main table."""
    if kind not in ROUTE_KINDS:
        raise InvalidValue(f"unknown kind of route {kind!r}; the kinds are {', '.join(ROUTE_KINDS)}")
    scope = 253 if via is None and kind == "unicast" else 0  # without a gateway it ends on the link
    header = _RTMSG.pack(
        _family(destination),
        destination.prefixlen,
        *(0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, ROUTE_KINDS[kind], 0),
    )
    packed = attribute(RTA_DST, destination.network_address.packed) if destination.prefixlen else b""
    if via is not None:
        packed += attribute(RTA_GATEWAY, via.packed)
    for which, value in ((RTA_OIF, index), (RTA_PRIORITY, metric)):
        if value is not None:
            packed += attribute(which, value)
    return header + packed


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Which hardware address a machine on the same link has, as ARP or an administrator found out.

    ::

        struct ndmsg {
            __u8  ndm_family;
            __s32 ndm_ifindex;
            __u16 ndm_state;    /* NUD_REACHABLE, NUD_PERMANENT, ... */
            __u8  ndm_flags;
            __u8  ndm_type;
        };
    """

    link_index: int
    address: IpAddress
    mac: str  # "" until somebody has answered
    state: str

    @classmethod
    def parse(cls, body: bytes) -> "Neighbour":
        """Read an ``RTM_NEWNEIGH`` body."""
        _, _, index, state, _, _ = _NDMSG.unpack_from(body)
        found = parse_attributes(body, _NDMSG.size)
        address = ipaddress.ip_address(found[NDA_DST])
        mac = found.get(NDA_LLADDR, b"").hex(":")
        return cls(index, address, mac, NEIGHBOUR_STATES.get(state, str(state)))


def neighbour_body(index: int, address: IpAddress | None = None, mac: str | None = None) -> bytes:
    """Pack the body of ``RTM_NEWNEIGH``; without `mac` of ``RTM_DELNEIGH``, without both ``RTM_GETNEIGH``."""
    if address is None:
        return _NDMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0, 0)
    header = _NDMSG.pack(_family(address), 0, index, NUD_PERMANENT, 0, 0)
    packed = attribute(NDA_DST, address.packed)
    return header + packed + (attribute(NDA_LLADDR, _mac(mac)) if mac is not None else b"")


def parse_network(destination: str | IpNetwork) -> IpNetwork:
    """Read "10.0.0.0/8", an address, or "default", which is IPv4's."""
    return ipaddress.ip_network("0.0.0.0/0" if destination == "default" else destination)


def _family(address: IpAddress | IpNetwork) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _optional_number(found: dict[int, bytes], kind: int) -> int | None:
    return number(found[kind]) if kind in found else None


def _link_name(name: str) -> str:
    # "%d" would be replaced by a number.
    if not 1 <= len(name.encode()) <= 15 or name in (".", "..") or any(c in "/:% \t\n" for c in name):
        raise InvalidValue(
            f"{name!r} is no name for a link; expected 1 to 15 bytes without '/', ':', '%' and blanks"
        )
    return name


def _mac(mac: str) -> bytes:
    try:
        packed = bytes.fromhex(mac.replace(":", ""))
    except ValueError:
        packed = b""
    if len(packed) != 6 or mac.count(":") != 5:
        raise InvalidValue(f"{mac!r} is no hardware address; expected one like '02:00:00:00:00:01'")
    return packed
