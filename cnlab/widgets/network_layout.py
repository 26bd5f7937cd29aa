"""Where everything in a picture of networks stands: pure geometry, in inches, the origin at the top left.

A namespace is a box, an interface a chip in it. Boxes stand in rows that the caller chooses. In a box the
chips stand on up to three levels: above those whose cable leads to a row above, below those whose cable leads
to a row below, and between them all others. A loopback alone between them joins its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnlab.linux.topology import End, Interface, NamespaceFacts, Topology

CHIP_WIDTH, BRIDGE_WIDTH, LOOPBACK_WIDTH = 1.15, 1.7, 0.85
LINE_HEIGHT, CHIP_PADDING = 0.155, 0.11
CHIP_GAP, LEVEL_GAP = 0.18, 0.3
BOX_PADDING, TITLE_HEIGHT, NOTE_HEIGHT = 0.16, 0.34, 0.2
BOX_GAP, ROW_GAP, MARGIN = 0.35, 0.5, 0.08
_TITLE_WIDTH_PER_LETTER = 0.085

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle; `y` is its upper edge and grows downwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """The x of its middle."""
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        """The y of its lower edge."""
        return self.y + self.height


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of all boxes, by the label of the namespace, and of all chips."""

    boxes: dict[str, Rectangle]
    chips: dict[End, Rectangle]
    width: float
    height: float


def chip_lines(interface: Interface) -> list[str]:
    """Return what a chip says: the interface's name and its IPv4 addresses."""
    return [interface.name, *(address for address in interface.addresses if ":" not in address)]


def notes(namespace: NamespaceFacts) -> list[str]:
    """Return the routes that lead beyond the neighbours, one line each."""
    return [
        f"{route.destination} → {route.gateway or route.kind}"
        for route in namespace.routes
        if ":" not in route.destination and ":" not in (route.gateway or "")
        if route.gateway or route.kind != "unicast"
    ]


def default_rows(topology: Topology) -> list[list[str]]:
    """Return two rows: the first namespace below, all others above it."""
    home, *others = [namespace.label for namespace in topology.namespaces]
    return [others, [home]] if others else [[home]]


def lay_out(topology: Topology, rows: Rows) -> Layout:
    """Give every namespace that is in `rows`, and every interface in it, its place."""
    place = {label: (y, x) for y, row in enumerate(rows) for x, label in enumerate(row)}
    levels = {label: _levels(topology[label], place) for label in place}
    widths = {label: _box_width(topology[label], levels[label]) for label in place}
    total = max(sum(widths[label] for label in row) + BOX_GAP * (len(row) - 1) for row in rows)
    boxes: dict[str, Rectangle] = {}
    chips: dict[End, Rectangle] = {}
    y = MARGIN
    for row in rows:
        height = max(_box_height(topology[label], levels[label]) for label in row)
        spare = (total - sum(widths[label] for label in row)) / (len(row) + 1)
        x, gap = (MARGIN, BOX_GAP) if spare < BOX_GAP else (MARGIN + spare, spare)
        for label in row:
            boxes[label] = Rectangle(x, y, widths[label], height)
            chips |= _place_chips(label, levels[label], boxes[label])
            x += widths[label] + gap
        y += height + ROW_GAP
    return Layout(boxes, chips, total + 2 * MARGIN, y - ROW_GAP + MARGIN)


def _levels(namespace: NamespaceFacts, place: dict[str, tuple[int, int]]) -> list[list[Interface]]:
    """Sort the interfaces of a box by where their cables lead: up, nowhere in particular, down."""
    levels: list[list[Interface]] = [[], [], []]
    here = place[namespace.label][0]
    for interface in namespace.interfaces:
        peer = interface.peer
        row = here if peer is None or peer.namespace not in place else place[peer.namespace][0]
        levels[1 + (row > here) - (row < here)].append(interface)

    def leads_to(interface: Interface) -> tuple[int, str]:
        return (place[interface.peer.namespace][1] if interface.peer else -1, interface.name)

    levels[0].sort(key=leads_to)
    levels[1].sort(key=lambda interface: (interface.name != "lo", interface.index))
    levels[2].sort(key=leads_to)
    used = [level for level in levels if level]
    if len(used) == 2 and [interface.name for interface in levels[1]] == ["lo"]:
        return [[*levels[1], *levels[0], *levels[2]]]
    return used


def _chip_width(interface: Interface) -> float:
    if interface.kind == "bridge":
        return BRIDGE_WIDTH
    return LOOPBACK_WIDTH if interface.name == "lo" else CHIP_WIDTH


def _chip_height(interface: Interface) -> float:
    return 2 * CHIP_PADDING + LINE_HEIGHT * max(2, len(chip_lines(interface)))


def _level_width(level: Sequence[Interface]) -> float:
    return sum(map(_chip_width, level)) + CHIP_GAP * (len(level) - 1)


def _level_height(level: Sequence[Interface]) -> float:
    return max(map(_chip_height, level))


def _box_width(namespace: NamespaceFacts, levels: Sequence[Sequence[Interface]]) -> float:
    title = _TITLE_WIDTH_PER_LETTER * (len(namespace.label) + 20)
    return max(title, *map(_level_width, levels), 0) + 2 * BOX_PADDING


def _box_height(namespace: NamespaceFacts, levels: Sequence[Sequence[Interface]]) -> float:
    chips = sum(map(_level_height, levels)) + LEVEL_GAP * (len(levels) - 1)
    return TITLE_HEIGHT + chips + NOTE_HEIGHT * len(notes(namespace)) + BOX_PADDING


def _place_chips(label: str, levels: Sequence[Sequence[Interface]], box: Rectangle) -> dict[End, Rectangle]:
    chips = {}
    y = box.y + TITLE_HEIGHT
    for level in levels:
        x = box.middle - _level_width(level) / 2
        for interface in level:
            width = _chip_width(interface)
            chips[End(label, interface.name)] = Rectangle(x, y, width, _chip_height(interface))
            x += width + CHIP_GAP
        y += _level_height(level) + LEVEL_GAP
    return chips
