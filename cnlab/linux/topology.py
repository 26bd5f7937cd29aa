"""The network as facts: namespaces, the links in them, and which link is the other end of which.

The kernel tells each namespace only about itself. A veth names its other end by an index, and the namespace
of that by a number of its own (`Link.peer_nsid`); asking every namespace for its number of every other one
puts the picture together.

See: rtnetlink(7), ``RTM_GETNSID``.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cnlab.linux.netns import NetNs, NetNsTarget
from cnlab.linux.rtnetlink import Address, Link, Route, Rtnetlink


@dataclass(frozen=True, slots=True)
class End:
    """An end of a cable: a link, by its name, in a namespace, by its label."""

    namespace: str
    interface: str


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair whose ends we both see."""

    a: End
    b: End


@dataclass(frozen=True, slots=True)
class Interface:
    """A link with its addresses, such as "10.0.0.2/24"."""

    name: str
    index: int
    kind: str  # "veth", "bridge", ...; "" for hardware and lo
    mac: str
    mtu: int
    is_up: bool
    addresses: tuple[str, ...]
    master: str | None  # the bridge that it is a port of
    peer: End | None  # a veth's other end, if that is in a namespace we were given


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """A route of the main table; `destination` is "default" or a network."""

    destination: str
    gateway: str | None
    interface: str | None
    kind: str


@dataclass(frozen=True, slots=True)
class NamespaceFacts:
    """One network namespace, called `label` by who asked."""

    label: str
    inode: int
    interfaces: tuple[Interface, ...]
    routes: tuple[RouteFacts, ...]

    def interface(self, name: str) -> Interface:
        """Return the link of that name; `KeyError` if there is none."""
        for interface in self.interfaces:
            if interface.name == name:
                return interface
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Topology:
    """Some network namespaces at one moment."""

    namespaces: tuple[NamespaceFacts, ...]

    def __getitem__(self, label: str) -> NamespaceFacts:
        for namespace in self.namespaces:
            if namespace.label == label:
                return namespace
        raise KeyError(label)

    @property
    def cables(self) -> tuple[Cable, ...]:
        """The veth pairs, each once, in the order of the namespaces and their links."""
        ends = {
            End(namespace.label, interface.name): interface.peer
            for namespace in self.namespaces
            for interface in namespace.interfaces
        }
        seen: dict[frozenset[End], Cable] = {}
        for end, peer in ends.items():
            if peer is not None:
                seen.setdefault(frozenset((end, peer)), Cable(end, peer))
        return tuple(seen.values())


@dataclass(frozen=True, slots=True)
class View:
    """What the kernel tells in one namespace: the raw material of a `Topology`."""

    label: str
    inode: int
    links: tuple[Link, ...]
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    labels: Mapping[int, str]  # its number of another namespace: that one's label


def read_topology(targets: Mapping[str, NetNsTarget | None]) -> Topology:
    """Look at the namespaces in `targets`, by the labels they shall have; None is our own."""
    with contextlib.ExitStack() as stack:
        namespaces = {
            label: stack.enter_context(NetNs.current() if target is None else NetNs.open(target))
            for label, target in targets.items()
        }
        return assemble([_view(label, namespaces) for label in namespaces])


def _view(label: str, namespaces: Mapping[str, NetNs]) -> View:
    with Rtnetlink(namespaces[label]) as ip:
        links = tuple(ip.links())  # first: listing a veth is what gives its peer's namespace a number
        numbers = {other: ip.nsid(namespace) for other, namespace in namespaces.items()}
        return View(
            label,
            namespaces[label].inode,
            links,
            tuple(ip.addresses()),
            tuple(ip.routes()),
            {number: other for other, number in numbers.items() if number is not None},
        )


def assemble(views: list[View]) -> Topology:
    """Put what each namespace knows together; pure."""
    names = {view.label: {link.index: link.name for link in view.links} for view in views}
    return Topology(
        tuple(
            NamespaceFacts(
                view.label,
                view.inode,
                tuple(_interfaces(view, names)),
                tuple(_routes(view, names[view.label])),
            )
            for view in views
        )
    )


def _interfaces(view: View, names: Mapping[str, Mapping[int, str]]) -> Iterator[Interface]:
    for link in view.links:
        yield Interface(
            name=link.name,
            index=link.index,
            kind=link.kind,
            mac=link.mac,
            mtu=link.mtu,
            is_up=link.is_up,
            addresses=tuple(
                str(address.interface) for address in view.addresses if address.link_index == link.index
            ),
            master=None if link.master is None else names[view.label].get(link.master),
            peer=_peer(link, view, names),
        )


def _peer(link: Link, view: View, names: Mapping[str, Mapping[int, str]]) -> End | None:
    if link.kind != "veth" or link.peer is None:
        return None
    label = view.label if link.peer_nsid is None else view.labels.get(link.peer_nsid)
    name = names.get(label or "", {}).get(link.peer)
    return None if label is None or name is None else End(label, name)


def _routes(view: View, names: Mapping[int, str]) -> Iterator[RouteFacts]:
    for route in view.routes:
        yield RouteFacts(
            "default" if route.is_default else str(route.destination),
            None if route.gateway is None else str(route.gateway),
            None if route.link_index is None else names.get(route.link_index),
            route.kind,
        )
