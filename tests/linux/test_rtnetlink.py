import errno
import ipaddress
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnlab.errors import InvalidValue
from cnlab.linux import netns
from cnlab.linux.netns import NetNs
from cnlab.linux.rtnetlink import Rtnetlink

needs_root = pytest.mark.needs_root


def ip_json(*arguments: str) -> list[dict]:
    """What the real ``ip`` says of the namespace that we are in."""
    done = subprocess.run(["ip", "-json", "-details", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


@pytest.fixture
def ip() -> Iterator[Rtnetlink]:
    """A conversation about a new network namespace, which the test is in."""
    with NetNs.create() as namespace, netns.inside(namespace), Rtnetlink() as ip:
        yield ip


@pytest.fixture
def there() -> Iterator[NetNs]:
    """Another network namespace."""
    with NetNs.create() as namespace:
        yield namespace


def furnish(ip: Rtnetlink, there: NetNs) -> None:
    """Make one of everything."""
    ip.add_bridge("br0", mac="02:00:00:00:00:01", up=True)
    ip.add_veth("veth0", peer="eth0", peer_netns=there, master="br0", mtu=1400, up=True)
    ip.add_vxlan("vx0", vni=42, local="10.0.0.1", remote="10.0.0.9", port=4790, mtu=1450)
    ip.add_address("br0", "10.0.0.1/24")
    if Path("/proc/sys/net/ipv6").exists():  # not in every kernel
        ip.add_address("br0", "fd00::1/64")
    ip.add_route("default", via="10.0.0.254")
    ip.add_route("10.9.0.0/16", link="br0", metric=7)
    ip.add_route("10.8.0.0/16", kind="unreachable")
    ip.add_neighbour("br0", "10.0.0.9", "02:00:00:00:00:09")
    ip.set_link("veth0", alias="a cable")


@needs_root
def test_links_are_those_that_ip_shows(ip, there):
    """The reference program reads the same messages."""
    furnish(ip, there)
    names = {link.index: link.name for link in ip.links()}

    ours = [
        (link.index, link.name, link.kind, link.mac, link.mtu, names.get(link.master), link.peer, link.alias)
        for link in ip.links()
    ]

    assert ours == [
        (
            *(link["ifindex"], link["ifname"], link.get("linkinfo", {}).get("info_kind", "")),
            *(
                link["address"],
                link["mtu"],
                link.get("master"),
                link.get("link_index"),
                link.get("ifalias", ""),
            ),
        )
        for link in ip_json("link")
    ]
    assert [(link.is_up, link.operstate.upper()) for link in ip.links()] == [
        ("UP" in link["flags"], link["operstate"]) for link in ip_json("link")
    ]


@needs_root
def test_addresses_are_those_that_ip_shows(ip, there):
    """Both families, with their scopes."""
    furnish(ip, there)
    names = {link.index: link.name for link in ip.links()}

    ours = {(names[one.link_index], str(one.interface), one.scope) for one in ip.addresses()}

    assert ours == {
        (link["ifname"], f"{address['local']}/{address['prefixlen']}", address["scope"])
        for link in ip_json("address")
        for address in link["addr_info"]
    }
    assert ("br0", "10.0.0.1/24", "global") in ours


@needs_root
def test_routes_are_those_that_ip_shows(ip, there):
    """The main table, with what is unreachable on purpose."""
    furnish(ip, there)
    names = {link.index: link.name for link in ip.links()}

    ours = {
        (
            "default" if route.is_default else str(route.destination),
            str(route.gateway) if route.gateway else None,
            names.get(route.link_index),
            route.kind,
            route.metric,
        )
        for route in ip.routes()
        if route.destination.version == 4
    }

    assert ours == {
        (route["dst"], route.get("gateway"), route.get("dev"), route["type"], route.get("metric", 0))
        for route in ip_json("route")
    }
    assert len(ours) == 4


@needs_root
def test_neighbours_are_those_that_ip_shows(ip, there):
    """The one we have named, for good."""
    furnish(ip, there)

    (ours,) = [one for one in ip.neighbours() if one.state == "permanent"]

    (theirs,) = ip_json("neighbour", "show", "nud", "permanent")
    assert (str(ours.address), ours.mac) == (theirs["dst"], theirs["lladdr"])


@needs_root
def test_tunnel_is_what_ip_would_have_made(ip, there):
    """The kernel keeps number, ends and port in its own byte orders."""
    furnish(ip, there)

    data = ip_json("link", "show", "vx0")[0]["linkinfo"]["info_data"]
    assert (data["id"], data["local"], data["remote"], data["port"]) == (42, "10.0.0.1", "10.0.0.9", 4790)


@needs_root
def test_listing_that_needs_several_datagrams_is_complete(ip):
    """One datagram holds some 300 addresses."""
    ip.add_bridge("br0")
    network = ipaddress.ip_network("10.0.0.0/16")
    wanted = [ipaddress.ip_interface((network[number], 32)) for number in range(1, 1001)]
    for address in wanted:
        ip.add_address("br0", address)

    assert [one.interface for one in ip.addresses("br0")] == wanted


@needs_root
def test_link_is_changed_in_all_that_is_said_and_in_nothing_else(ip):
    """``ip link set`` takes several words at a time, too."""
    ip.add_veth("a", peer="b", mac="02:00:00:00:00:01")

    ip.set_link("a", rename="c", mtu=1300, alias="x", up=True)

    link = ip.link("c")
    assert (link.mtu, link.alias, link.is_up, link.mac) == (1300, "x", True, "02:00:00:00:00:01")


@needs_root
def test_port_leaves_its_bridge(ip):
    """The empty name is no bridge, None leaves things as they are."""
    ip.add_bridge("br0")
    ip.add_veth("a", peer="b", master="br0")
    ip.set_link("a", up=True)
    is_port = ip.link("a").master == ip.link("br0").index
    ip.set_link("a", master="")

    assert is_port
    assert ip.link("a").master is None


@needs_root
def test_link_moves_to_another_namespace_under_a_new_name(ip, there):
    """``ip link set a netns 7 name eth0``."""
    ip.add_veth("a", peer="b")

    ip.set_link("b", netns=there, rename="eth0")

    assert [link.name for link in ip.links()] == ["lo", "a"]
    with Rtnetlink(there) as inside_it:
        assert [link.name for link in inside_it.links()] == ["lo", "eth0"]


@needs_root
def test_veth_ends_know_each_other_across_namespaces(ip, there):
    """By index and by the number that each namespace has for the other."""
    ip.add_veth("a", peer="b", peer_netns=there)
    with Rtnetlink(there) as inside_it:
        ours, theirs = ip.link("a"), inside_it.link("b")

        assert (ours.peer, theirs.peer) == (theirs.index, ours.index)
        assert (ours.peer_nsid, theirs.peer_nsid) == (
            ip.nsid(there),
            inside_it.nsid("/proc/thread-self/ns/net"),
        )


@needs_root
def test_cable_is_gone_at_both_ends(ip, there):
    """There is no veth with one end."""
    ip.add_veth("a", peer="b", peer_netns=there)

    ip.delete_link("a")

    with Rtnetlink(there) as inside_it:
        assert [link.name for link in inside_it.links()] == ["lo"]


@needs_root
def test_macvlan_shares_the_link_it_is_made_on(ip, there):
    """A second hardware address on the same wire, in another namespace."""
    ip.add_veth("a", peer="b", up=True)

    ip.add_macvlan("mv0", parent="a", netns=there, mode="bridge")

    with Rtnetlink(there) as inside_it:
        link = inside_it.link("mv0")
        assert (link.kind, link.peer) == ("macvlan", ip.link("a").index)


@needs_root
def test_what_was_added_can_be_deleted(ip, there):
    """Addresses, routes and neighbours, each by what it was added with."""
    furnish(ip, there)

    ip.delete_neighbour("br0", "10.0.0.9")
    ip.delete_route("default", via="10.0.0.254")
    ip.delete_route("10.9.0.0/16", link="br0", metric=7)
    ip.delete_route("10.8.0.0/16", kind="unreachable")
    ip.delete_address("br0", "10.0.0.1/24")

    assert not [one for one in ip.neighbours() if one.state == "permanent"]
    assert not [route for route in ip.routes() if route.destination.version == 4]
    assert not [one for one in ip.addresses("br0") if one.interface.version == 4]


@needs_root
@pytest.mark.parametrize(
    ("attempt", "number", "message"),
    [
        (lambda ip: ip.link("eth9"), errno.ENODEV, "link(eth9): No such device"),
        (lambda ip: ip.delete_link("eth9"), errno.ENODEV, "delete_link(eth9): No such device"),
        (lambda ip: ip.add_bridge("lo"), errno.EEXIST, "add_bridge(lo): File exists"),
        (
            lambda ip: ip.add_address("lo", "10.0.0.1/24") or ip.add_address("lo", "10.0.0.1/24"),
            errno.EEXIST,
            "add_address(lo, 10.0.0.1/24): File exists",
        ),
        (
            lambda ip: ip.add_route("default", via="10.3.3.3"),
            errno.ENETUNREACH,
            "add_route(default): Network is",
        ),
    ],
)
def test_refusal_says_call_object_and_reason(ip, attempt, number, message):
    """What the course promises of every error of the kernel."""
    with pytest.raises(OSError, match=r"\(") as caught:
        attempt(ip)

    assert caught.value.errno == number
    assert str(caught.value.strerror).startswith(message)


@needs_root
@pytest.mark.parametrize("name", ["", "..", "sixteen-bytes-xx", "a/b", "a b", "a:b", "a%d"])
def test_name_that_no_link_can_have_is_refused(ip, name):
    """The kernel would say EINVAL, or cut it off."""
    with pytest.raises(InvalidValue, match="no name for a link"):
        ip.add_bridge(name)


@needs_root
@pytest.mark.parametrize("mac", ["", "02:00:00:00:00", "02-00-00-00-00-01", "02:00:00:00:00:zz"])
def test_text_that_is_no_hardware_address_is_refused(ip, mac):
    """The kernel would take six bytes of whatever it is given."""
    with pytest.raises(InvalidValue, match="no hardware address"):
        ip.add_bridge("br0", mac=mac)


@needs_root
@pytest.mark.parametrize(
    "attempt",
    [
        lambda ip: ip.add_macvlan("mv0", parent="lo", mode="bridged"),
        lambda ip: ip.add_route("default", kind="unreachabel"),
    ],
)
def test_unknown_word_is_answered_with_the_known_ones(ip, attempt):
    """A typing mistake is found without reading the source."""
    with pytest.raises(InvalidValue, match=r"are .*bridge|are .*unreachable"):
        attempt(ip)


@pytest.mark.needs_userns
def test_network_of_ones_own_is_wired_in_a_user_namespace(inside):
    """In a user namespace; nothing of the host's is touched."""

    def wire() -> None:
        with NetNs.create() as other, Rtnetlink() as ip, Rtnetlink(other) as container:
            ip.add_veth("a", peer="b", peer_netns=other, up=True)
            ip.add_address("a", "10.0.0.1/24")
            container.set_link("b", up=True)
            container.add_address("b", "10.0.0.2/24")
            print(*(str(one.interface) for one in container.addresses("b") if one.interface.version == 4))

    assert inside(wire, new=("net",)) == "10.0.0.2/24\n"
