"""The network picture: networks drawn as they are now, and controls that change them.

`network_picture` is a still picture, `NetworkPicture` the live one: it sets interfaces up and down, lets a
namespace forward or not, and makes requests after each change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnlab.linux.netns import NetNsTarget, inside
from cnlab.linux.rtnetlink import Rtnetlink
from cnlab.linux.topology import Topology, read_topology
from cnlab.widgets.mimebundle import mimebundle, picture_to_html
from cnlab.widgets.network_drawing import draw_network
from cnlab.widgets.network_layout import Rows
from cnlab.widgets.picture import Picture

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def network_picture(targets: Mapping[str, NetNsTarget | None], *, rows: Rows | None = None) -> Picture:
    """Draw network namespaces as they are now.

    Args:
        targets: which, by the labels they shall have; as for `read_topology`.
        rows: where; as for `draw_network`.
    """
    return draw_network(read_topology(targets), rows=rows)


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
        return network_picture(self.targets, rows=self.rows)

    def ask(self) -> dict[str, str]:
        """Make all requests and return what came back."""
        return {name: request() for name, request in self.requests.items()}

    def set_up(self, label: str, interface: str, up: bool) -> None:
        """Set an interface of the namespace called `label` up or down."""
        with Rtnetlink(self.targets[label]) as ip:
            ip.set_link(interface, up=up)

    def forwards(self, label: str) -> bool:
        """Tell whether the namespace called `label` forwards packets that are not for itself."""
        with self._inside(label):
            return _IP_FORWARD.read_text() == "1\n"

    def set_forward(self, label: str, forward: bool) -> None:
        """Let that namespace forward such packets, or drop them."""
        with self._inside(label):
            _IP_FORWARD.write_text(str(int(forward)))

    def _inside(self, label: str) -> AbstractContextManager[None]:
        target = self.targets[label]
        return nullcontext() if target is None else inside(target)

    def _live(self, now: Picture, answers: Mapping[str, str]) -> DOMWidget:
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
        forward = widgets.Checkbox(value=self.forwards(home), description=f"{home} forwards (ip_forward)")
        again = widgets.Button(description="look again", icon="refresh")
        message, table = widgets.Label(), widgets.HTML(answers_to_html(answers))
        image = widgets.Image(value=now.png(), width=now.width_px)

        def redraw(_button: object = None) -> None:
            now = self.picture()
            image.value, image.width = now.png(), str(now.width_px)
            table.value = answers_to_html(self.ask())

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
        return widgets.VBox([widgets.HBox([chosen, up, down, again]), forward, message, image, table])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        now, answers = self.picture(), self.ask()
        said = " ".join(f"{name}: {answer}." for name, answer in answers.items())
        static = picture_to_html(now) + answers_to_html(answers)
        return mimebundle(self._live(now, answers), static_html=static, text=f"{now.alt} {said}".strip())


def answers_to_html(answers: Mapping[str, str]) -> str:
    """Return what came back as a table of two columns."""
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(name)}</td>"
        f"<td style='text-align:left'><code>{escape(answer)}</code></td></tr>"
        for name, answer in answers.items()
    )
    return f"<table>{rows}</table>" if rows else ""
