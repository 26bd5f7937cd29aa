"""Networks as a drawing and in words: namespaces, the interfaces in them and the cables between them.

Each box is a network namespace, each chip an interface with its addresses. A line between boxes is a veth
pair, a line within a box leads from a port to its bridge. What is down is drawn with dots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cnlab.linux.topology import Cable, End, Interface, NamespaceFacts, Topology
from cnlab.widgets.network_layout import (
    BOX_PADDING,
    LINE_HEIGHT,
    NOTE_HEIGHT,
    Rectangle,
    Rows,
    chip_lines,
    default_rows,
    lay_out,
    notes,
)
from cnlab.widgets.picture import (
    BLUE,
    GREEN,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    QUIET,
    Picture,
    bare_axes,
    new_figure,
    picture,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"veth": BLUE, "bridge": GREEN, "vxlan": PURPLE}


def draw_network(topology: Topology, *, rows: Rows | None = None) -> Picture:
    """Draw namespaces and what joins them.

    Args:
        topology: the facts; see `read_topology`.
        rows: the labels of the namespaces, row by row from the top; by default all but the first stand above
            the first.
    """
    rows = [list(row) for row in rows or default_rows(topology) if row]
    shown = Topology(tuple(topology[label] for row in rows for label in row))
    layout = lay_out(shown, rows)
    figure = new_figure(layout.width, layout.height)
    figure.set_layout_engine("none")
    axes = bare_axes(figure)
    axes.set_position((0, 0, 1, 1))
    axes.set_xlim(0, layout.width)
    axes.set_ylim(layout.height, 0)
    for namespace in shown.namespaces:
        _draw_box(axes, namespace, layout.boxes[namespace.label])
    for cable in _cables(shown):
        _draw_cable(axes, shown, cable, layout.chips)
    for namespace in shown.namespaces:
        for interface in namespace.interfaces:
            chip = layout.chips[End(namespace.label, interface.name)]
            if interface.master is not None:
                _draw_port(axes, interface, chip, layout.chips[End(namespace.label, interface.master)])
            _draw_chip(axes, interface, chip)
    return picture(figure, alt=describe_network(shown))


def _draw_box(axes: Axes, namespace: NamespaceFacts, box: Rectangle) -> None:
    from matplotlib.patches import FancyBboxPatch

    frame = FancyBboxPatch(
        (box.x, box.y),
        box.width,
        box.height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor="white",
        edgecolor=LINE,
        linewidth=1.2,
    )
    axes.add_patch(frame)
    left = box.x + BOX_PADDING
    # Cables run behind the words, which stand on a white ground of their own.
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    title = axes.text(left, box.y + 0.17, namespace.label, va="center", color=INK, weight="bold", bbox=ground)
    title.set_fontsize(9.5)
    number = axes.annotate(
        f"net:[{namespace.inode}]", (1, 0.5), (6, 0), xycoords=title, textcoords="offset points", bbox=ground
    )
    number.set(va="center", color=MUTED, fontsize=7)
    for above, note in enumerate(reversed(notes(namespace)), start=1):
        text = axes.text(left, box.bottom - NOTE_HEIGHT * above + 0.04, note, va="center", bbox=ground)
        text.set(color=MUTED, family="monospace", fontsize=7)


def _draw_cable(axes: Axes, topology: Topology, cable: Cable, chips: Mapping[End, Rectangle]) -> None:
    ends = [topology[end.namespace].interface(end.interface) for end in (cable.a, cable.b)]
    upper, lower = sorted((chips[cable.a], chips[cable.b]), key=lambda chip: (chip.y, chip.x))
    works = all(end.is_up for end in ends)
    if upper.bottom < lower.y:
        xs, ys = (upper.middle, lower.middle), (upper.bottom, lower.y)
    else:
        xs, ys = (upper.x + upper.width, lower.x), (upper.y + upper.height / 2, lower.y + lower.height / 2)
    axes.plot(
        xs, ys, color=BLUE if works else MUTED, linewidth=2.2, linestyle="-" if works else ":", zorder=1.5
    )


def _draw_port(axes: Axes, interface: Interface, chip: Rectangle, bridge: Rectangle) -> None:
    down = chip.bottom < bridge.y
    xs = (chip.middle, min(max(chip.middle, bridge.x + 0.1), bridge.x + bridge.width - 0.1))
    ys = (chip.bottom, bridge.y) if down else (chip.y, bridge.bottom)
    style = "-" if interface.is_up else ":"
    axes.plot(xs, ys, color=GREEN if interface.is_up else MUTED, linewidth=1.4, linestyle=style, zorder=1.5)


def _draw_chip(axes: Axes, interface: Interface, chip: Rectangle) -> None:
    from matplotlib.patches import FancyBboxPatch

    colour = QUIET if interface.name == "lo" else COLOURS.get(interface.kind, ORANGE)
    patch = FancyBboxPatch(
        (chip.x, chip.y),
        chip.width,
        chip.height,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor=colour if interface.is_up else PAPER,
        edgecolor=colour if interface.is_up else MUTED,
        linestyle="-" if interface.is_up else ":",
        zorder=2,
    )
    axes.add_patch(patch)
    ink = PAPER if interface.is_up and colour != QUIET else INK
    name, *addresses = chip_lines(interface)
    if interface.kind in ("bridge", "vxlan"):
        name = f"{name} ({interface.kind})"
    lines = [name, *addresses] if interface.is_up else [name, *addresses, "down"]
    y = chip.y + chip.height / 2 - LINE_HEIGHT * (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        axes.text(
            chip.middle,
            y + LINE_HEIGHT * number,
            line,
            ha="center",
            va="center",
            color=ink,
            weight="normal" if number else "bold",
            family="monospace" if number else "sans-serif",
            fontsize=7 if number else 8,
        )


def _cables(topology: Topology) -> list[Cable]:
    """Return the cables that have both ends in the picture."""
    labels = {namespace.label for namespace in topology.namespaces}
    return [cable for cable in topology.cables if labels >= {cable.a.namespace, cable.b.namespace}]


def describe_network(topology: Topology) -> str:
    """Say in words what `draw_network` draws."""
    boxes = "; ".join(_describe_namespace(namespace) for namespace in topology.namespaces)
    cables = ", ".join(
        f"{cable.a.interface} of {cable.a.namespace} to {cable.b.interface} of {cable.b.namespace}"
        for cable in _cables(topology)
    )
    return f"Network namespaces: {boxes}. Cables: {cables or 'none'}."


def _describe_namespace(namespace: NamespaceFacts) -> str:
    told = [" ".join(_words(interface)) for interface in namespace.interfaces]
    return f"{namespace.label} with {', '.join([*told, *notes(namespace)])}"


def _words(interface: Interface) -> list[str]:
    words = chip_lines(interface)
    if interface.kind == "bridge":
        words.insert(1, "(bridge)")
    if interface.master:
        words.append(f"port of {interface.master}")
    return words if interface.is_up else [*words, "down"]
