"""Networks as a drawing: where everything stands, and what the words say."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from cnlab.linux.topology import End, Interface, NamespaceFacts, RouteFacts, Topology
from cnlab.widgets.network_drawing import describe_network, draw_network
from cnlab.widgets.network_layout import Rectangle, lay_out

LO = Interface("lo", 1, "", "", 65536, True, ("127.0.0.1/8", "::1/128"), None, None)
BRIDGE = replace(LO, name="net0", index=3, kind="bridge", addresses=("10.0.0.1/24",))
PORT = replace(LO, name="veth-web", kind="veth", addresses=(), master="net0", peer=End("web", "eth0"))
UPLINK = replace(LO, name="eth0", kind="veth", addresses=("203.0.113.2/24",), peer=End("world", "eth0"))
IN_WEB = replace(LO, name="eth0", kind="veth", addresses=("10.0.0.2/24",), peer=End("host", "veth-web"))
IN_WORLD = replace(UPLINK, addresses=("203.0.113.1/24",), peer=End("host", "eth0"))
DEFAULT = RouteFacts("default", "10.0.0.1", "eth0", "unicast")
NEIGHBOURS = RouteFacts("10.0.0.0/24", None, "eth0", "unicast")

HOST = NamespaceFacts("host", 100, (LO, BRIDGE, PORT, UPLINK), ())
WEB = NamespaceFacts("web", 101, (replace(LO, is_up=False, addresses=()), IN_WEB), (DEFAULT, NEIGHBOURS))
WORLD = NamespaceFacts("world", 102, (LO, IN_WORLD), ())
TOPOLOGY = Topology((HOST, WEB, WORLD))
ROWS = [["web"], ["host"], ["world"]]


def contains(outer: Rectangle, inner: Rectangle) -> bool:
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and inner.x + inner.width <= outer.x + outer.width
        and inner.bottom <= outer.bottom
    )


def overlap(one: Rectangle, other: Rectangle) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.bottom
        and other.y < one.bottom
    )


@pytest.mark.parametrize("rows", [ROWS, [["web", "world"], ["host"]], [["host", "web", "world"]]])
def test_every_interface_stands_in_the_box_of_its_namespace_and_on_no_other(rows):
    """A picture in which things cover each other shows what is not there."""
    layout = lay_out(TOPOLOGY, rows)
    page = Rectangle(0, 0, layout.width, layout.height)

    assert all(contains(layout.boxes[end.namespace], chip) for end, chip in layout.chips.items())
    assert all(contains(page, box) for box in layout.boxes.values())
    for boxes in (layout.boxes, layout.chips):
        assert [pair for pair in itertools.combinations(boxes.values(), 2) if overlap(*pair)] == []
    assert len(layout.chips) == sum(len(namespace.interfaces) for namespace in TOPOLOGY.namespaces)


def test_interface_stands_where_its_cable_leads_to():
    """Then no cable crosses the box that it comes from."""
    chips = lay_out(TOPOLOGY, ROWS).chips

    assert chips[End("host", "veth-web")].bottom < chips[End("host", "net0")].y < chips[End("host", "eth0")].y


def test_loopback_of_a_container_stands_beside_eth0():
    """As in the lecture's picture: eth0, eth1, lo."""
    chips = lay_out(TOPOLOGY, ROWS).chips

    assert chips[End("web", "lo")].y == chips[End("web", "eth0")].y


def test_words_say_what_the_picture_says():
    """Who hears the picture learns addresses, ports, routes, cables, and what is down."""
    words = describe_network(TOPOLOGY)

    assert "host with lo 127.0.0.1/8, net0 (bridge) 10.0.0.1/24, veth-web port of net0" in words
    assert "web with lo down, eth0 10.0.0.2/24, default → 10.0.0.1;" in words
    assert "Cables: veth-web of host to eth0 of web, eth0 of host to eth0 of world." in words


def test_address_of_ipv6_is_left_out():
    """The kernel gives one to each link by itself; they would hide those that we gave."""
    assert "::1" not in describe_network(TOPOLOGY)


def test_only_the_rows_that_are_asked_for_are_drawn():
    """A cable to somebody who is not in the picture has no end to be drawn to."""
    assert draw_network(TOPOLOGY, rows=[["web"]]).alt.endswith("Cables: none.")


def test_first_namespace_stands_below_the_others():
    """The host carries the containers."""
    assert draw_network(TOPOLOGY).alt.startswith("Network namespaces: web with")
