"""The idea of container networking in twenty lines: a switch, and a cable to each container.

`network` and `cni` are this, with the care for names, addresses and the end of things around it.
"""

import contextlib
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from cnlab.linux.netns import NetNsTarget
from cnlab.linux.rtnetlink import Rtnetlink


def mac_of(address: IPv4Address) -> str:
    """Return a locally administered hardware address made of an IP address, as Docker does it."""
    return (b"\x02\x42" + address.packed).hex(":")


def make_bridge(host: Rtnetlink, name: str, address: IPv4Interface, *, mtu: int = 1500) -> None:
    """Make the switch, with the address that containers use as their gateway.

    Raises:
        OSError: the kernel refused, EEXIST if there is one already; nothing is left behind.
    """
    # Without a hardware address of its own, a bridge takes the least of its ports', and changes it with them.
    host.add_bridge(name, mac=mac_of(address.ip), mtu=mtu)
    try:
        host.add_address(name, address)
        host.set_link(name, up=True)
        # What 127.0.0.1 sends to a published port may leave by this link, and its answers come in.
        Path(f"/proc/sys/net/ipv4/conf/{name}/route_localnet").write_text("1")
    except BaseException:
        host.delete_link(name)
        raise


def connect(
    host: Rtnetlink,
    target: NetNsTarget,
    *,
    bridge: str,
    host_interface: str,
    interface: str,
    address: IPv4Interface,
    routes: Iterable[tuple[IPv4Network, IPv4Address]] = (),
    mtu: int = 1500,
) -> None:
    """Lay a cable from the bridge into the namespace `target`, and configure its end there.

    Args:
        host: a conversation with the namespace that the bridge is in.
        target: the container's network namespace.
        bridge: the switch.
        host_interface: what the cable's end at the bridge is called.
        interface: what the container's end is called.
        address: of the container.
        routes: destinations, and the gateways to them.
        mtu: of both ends, bytes.

    Raises:
        OSError: the kernel refused; the cable is gone again.
    """
    host.add_veth(
        host_interface,
        peer=interface,
        peer_netns=target,
        peer_mac=mac_of(address.ip),
        master=bridge,
        mtu=mtu,
        up=True,
    )
    try:
        # Where br_netfilter is loaded, a container's way to its own published port turns round in its port.
        host.set_link(host_interface, hairpin=True)
        with Rtnetlink(target) as container:
            container.set_link("lo", up=True)
            container.set_link(interface, up=True)
            container.add_address(interface, address)
            for destination, gateway in routes:
                container.add_route(destination, via=gateway)
    except BaseException:
        disconnect(host, host_interface)
        raise


def disconnect(host: Rtnetlink, host_interface: str) -> None:
    """Remove a cable by its host's end; it may have ended with the container's namespace already."""
    with contextlib.suppress(OSError):
        host.delete_link(host_interface)
