"""The network picture: namespaces, the interfaces in them and the cables between them, from the live system.

Each box is a network namespace, each chip an interface with its addresses. A line between boxes is a veth
pair, a line within a box leads from a port to its bridge. What is down is drawn with dashes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnlab.linux.netns import NetNsTarget, inside
from cnlab.linux.rtnetlink import Rtnetlink
from cnlab.linux.topology import Cable, End, Interface, NamespaceFacts, Topology, read_topology
from cnlab.widgets.mimebundle import mimebundle, picture_to_html
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
    from ipywidgets import DOMWidget
    from matplotlib.axes import Axes

COLOURS = {"veth": BLUE, "bridge": GREEN, "vxlan": PURPLE}
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


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


class NetworkPicture:
    """The live picture: set interfaces up and down, forward or not, and see what is still reached.

    Args:
        targets: what to show, as for `read_topology`.
        rows: where, as for `draw_network`.
        requests: what to try after each change, by its name; the value is what came back.
    """

    def __init__(
        self,
        targets: Mapping[str, NetNsTarget | None],
        *,
        rows: Rows | None = None,
        requests: Mapping[str, Callable[[], str]] | None = None,
    ) -> None:
        self.targets = dict(targets)
        self.rows = rows
        self.requests = dict(requests or {})

    def read(self) -> Topology:
        """Return the network as it is now."""
        return read_topology(self.targets)

    def picture(self) -> Picture:
        """Draw the network as it is now."""
        return draw_network(self.read(), rows=self.rows)

    def ask(self) -> dict[str, str]:
        """Make all requests and return what came back."""
        return {name: request() for name, request in self.requests.items()}

    def set_up(self, label: str, interface: str, up: bool) -> None:
        """Set an interface of the namespace called `label` up or down."""
        with Rtnetlink(self.targets[label]) as ip:
            ip.set_link(interface, up=up)

    def set_forward(self, label: str, forward: bool) -> None:
        """Let the namespace called `label` forward packets that are not for itself, or drop them."""
        target = self.targets[label]
        if target is None:
            _IP_FORWARD.write_text(str(int(forward)))
        else:
            with inside(target):
                _IP_FORWARD.write_text(str(int(forward)))

    def _live(self, now: Picture) -> DOMWidget:
        import ipywidgets as widgets

        ends = {
            f"{namespace.label}: {interface.name}": (namespace.label, interface.name)
            for namespace in self.read().namespaces
            for interface in namespace.interfaces
        }
        home = next(iter(self.targets))
        chosen = widgets.Dropdown(options=list(ends), description="interface")
        up = widgets.Button(description="set up", icon="plug")
        down = widgets.Button(description="set down", icon="scissors")
        forward = widgets.Checkbox(value=self._forwards(home), description=f"{home} forwards (ip_forward)")
        again = widgets.Button(description="look again", icon="refresh")
        message, answers = widgets.Label(), widgets.HTML(answers_to_html(self.ask()))
        image = widgets.Image(value=now.png(), width=now.width_px)

        def redraw(_button: object = None) -> None:
            now = self.picture()
            image.value, image.width = now.png(), str(now.width_px)
            answers.value = answers_to_html(self.ask())

        def change(to_up: bool) -> None:
            label, name = ends[str(chosen.value)]
            try:
                self.set_up(label, name, to_up)
                message.value = f"ip link set {name} {'up' if to_up else 'down'}   (in {label})"
            except OSError as error:
                message.value = str(error)
            redraw()

        def switch(change: dict[str, Any]) -> None:
            self.set_forward(home, bool(change["new"]))
            message.value = f"sysctl net.ipv4.ip_forward={int(change['new'])}   (in {home})"
            redraw()

        up.on_click(lambda _button: change(True))
        down.on_click(lambda _button: change(False))
        again.on_click(redraw)
        forward.observe(switch, names="value")
        return widgets.VBox([widgets.HBox([chosen, up, down, again]), forward, message, image, answers])

    def _forwards(self, label: str) -> bool:
        target = self.targets[label]
        if target is None:
            return _IP_FORWARD.read_text() == "1\n"
        with inside(target):
            return _IP_FORWARD.read_text() == "1\n"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        now, answers = self.picture(), self.ask()
        said = " ".join(f"{name}: {answer}." for name, answer in answers.items())
        static = picture_to_html(now) + answers_to_html(answers)
        return mimebundle(self._live(now), static_html=static, text=f"{now.alt} {said}".strip())


def answers_to_html(answers: Mapping[str, str]) -> str:
    """Return what came back as a table of two columns."""
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(name)}</td>"
        f"<td style='text-align:left'><code>{escape(answer)}</code></td></tr>"
        for name, answer in answers.items()
    )
    return f"<table>{rows}</table>" if rows else ""
