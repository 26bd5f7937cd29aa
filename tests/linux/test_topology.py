from dataclasses import replace

import pytest

from cnlab.linux.netns import NetNs, inside
from cnlab.linux.rtnetlink import Link, Rtnetlink
from cnlab.linux.topology import Cable, End, RouteFacts, View, assemble, read_topology

LO = Link(1, "lo", "", "00:00:00:00:00:00", 65536, True, "unknown", None, None, None, "")


def view(label: str, *links: Link, **numbers: int) -> View:
    """What a namespace tells that has these links, and these numbers of other namespaces."""
    return View(label, 1, (LO, *links), (), (), {number: name for name, number in numbers.items()})


def veth(index: int, name: str, peer: int, peer_nsid: int | None) -> Link:
    return replace(LO, index=index, name=name, kind="veth", peer=peer, peer_nsid=peer_nsid)


def test_ends_with_the_same_index_are_told_apart_by_namespace():
    """eth0 is number 2 in every container."""
    topology = assemble(
        [
            view("host", veth(5, "veth-a", 2, 0), veth(6, "veth-b", 2, 1), a=0, b=1),
            view("a", veth(2, "eth0", 5, 0), host=0),
            view("b", veth(2, "eth0", 6, 0), host=0),
        ]
    )

    assert topology.cables == (
        Cable(End("host", "veth-a"), End("a", "eth0")),
        Cable(End("host", "veth-b"), End("b", "eth0")),
    )


def test_both_ends_in_one_namespace_are_one_cable():
    """Then the kernel names no namespace for the other end."""
    topology = assemble([view("host", veth(5, "a", 6, None), veth(6, "b", 5, None))])

    assert topology.cables == (Cable(End("host", "a"), End("host", "b")),)


def test_end_in_a_namespace_that_was_not_asked_for_is_none():
    """Its index must not be looked up here, where it means another link."""
    topology = assemble([view("host", veth(5, "a", 1, 0))])

    assert topology["host"].interface("a").peer is None
    assert topology.cables == ()


@pytest.mark.needs_root
def test_picture_of_the_lecture_is_read_from_the_kernel():
    """A host with a bridge, a container with lo and eth0, the cable between them, and the way out."""
    with NetNs.create() as host, NetNs.create() as container, inside(host):
        with Rtnetlink() as ip, Rtnetlink(container) as there:
            ip.add_bridge("br0", up=True)
            ip.add_address("br0", "10.0.0.1/24")
            ip.add_veth("veth0", peer="eth0", peer_netns=container, master="br0", up=True)
            there.set_link("eth0", up=True)
            there.add_address("eth0", "10.0.0.2/24")
            there.add_route("default", via="10.0.0.1")

        inode = container.inode
        topology = read_topology({"host": None, "container": container})

    assert topology.cables == (Cable(End("host", "veth0"), End("container", "eth0")),)
    assert topology["host"].interface("veth0").master == "br0"
    assert "10.0.0.1/24" in topology["host"].interface("br0").addresses
    assert [one.name for one in topology["container"].interfaces] == ["lo", "eth0"]
    assert RouteFacts("default", "10.0.0.1", "eth0", "unicast") in topology["container"].routes
    assert topology["container"].inode == inode
