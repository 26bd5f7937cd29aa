"""The lecture's diagram of a mesh, drawn from the live system: control plane above, data plane below.

Interface: `mesh_diagram(mesh)` draws a mesh as it is now. `draw_mesh` draws `MeshFacts`, whoever made them;
`read_mesh` does. `MeshPanel` is the live form, with buttons that kill and restart things.

A coloured line is what the control plane gives a sidecar. Requests of the application are the arcs below:
none of them goes up.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from cnlab.errors import CnlabError
from cnlab.widgets.mesh_drawing import Chip, Sheet
from cnlab.widgets.mesh_facts import TYPES, MeshFacts, Pod, read_mesh
from cnlab.widgets.mimebundle import mimebundle, picture_to_html
from cnlab.widgets.picture import BLUE, GREEN, MUTED, ORANGE, PURPLE, RED, Picture, picture

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

PARTS = {  # of the control plane, in 2018's words: their colour and what they say
    "Pilot": (BLUE, "discovery & config"),
    "Auth": (PURPLE, "tls certs"),
    "Mixer": (ORANGE, "policy check, telemetry reports"),
}
_LEGEND = {
    "Pilot": "configuration",
    "Auth": "certificates",
    "Mixer": "telemetry, out of band; policy checks, while a request waits",
}
_STYLES = {"Mixer": "--"}  # of lines that bring no configuration
_STATIC_NOTE = "In a running notebook, buttons send requests and kill and restart the control plane."
_POD, _GAP, _GUTTER = 1.16, 0.13, 0.2
_CONTROL, _PODS, _POD_HEIGHT = (0.08, 0.86), 1.42, 1.42  # (top, height), top, height


def mesh_diagram(mesh: Any) -> Picture:
    """Draw a mesh as it is now."""
    return draw_mesh(read_mesh(mesh))


def draw_mesh(facts: MeshFacts) -> Picture:
    """Draw control plane, sidecars with their services, streams between them, and who has called whom."""
    width = max(len(facts.pods) * (_POD + _GAP) + _GAP, 6.5)
    left = {pod.name: _GAP + number * (_POD + _GAP) for number, pod in enumerate(facts.pods)}
    bottom = _PODS + _POD_HEIGHT
    places = list(left)
    spans = [abs(places.index(a) - places.index(b)) for a, b in facts.calls if a in left and b in left]
    depth = 0.28 + 0.15 * max(spans, default=1)
    sheet = Sheet(width, bottom + depth + 0.5)
    _draw_control_plane(sheet, facts, width)
    for pod in facts.pods:
        _draw_pod(sheet, facts, pod, left[pod.name])
    busiest = max(facts.calls.values(), default=1)
    for (source, destination), count in facts.calls.items():
        if source in left and destination in left:
            start, end = (left[name] + _GUTTER + (_POD - _GUTTER) / 2 for name in (source, destination))
            deep = 0.28 + 0.15 * abs(places.index(source) - places.index(destination))
            width_pt = 0.8 + 2.2 * count / busiest
            sheet.arc(start, end, bottom - 0.02, deep, f"{count}", colour=GREEN, width=width_pt)
    sheet.words(_GAP, bottom + depth + 0.16, "Data Plane: touches every request. Application traffic", GREEN)
    _draw_legend(sheet, bottom + depth + 0.36)
    return picture(sheet.figure, alt=describe_mesh(facts))


def _draw_legend(sheet: Sheet, y: float) -> None:
    """Say what the lines between the planes are."""
    x = _GAP
    for part, says in _LEGEND.items():
        colour, _ = PARTS[part]
        sheet.line([(x, y), (x + 0.25, y)], colour=colour, style=_STYLES.get(part, "-"))
        sheet.words(x + 0.31, y, says, colour)
        x += 0.55 + 0.06 * len(says)


def _draw_control_plane(sheet: Sheet, facts: MeshFacts, width: float) -> None:
    top, height = _CONTROL
    is_up = facts.control_plane_pid is not None
    sheet.box(_GAP, top, width - 2 * _GAP, height, is_solid=is_up)
    pid = f"process {facts.control_plane_pid}" if is_up else "not running"
    sheet.words(
        _GAP + 0.12, top + 0.17, f"Control Plane: touches no request. istio-system namespace, {pid}", MUTED
    )
    step = (width - 2 * _GAP) / len(PARTS)
    for number, (name, (colour, says)) in enumerate(PARTS.items()):
        chip = Chip(_GAP + step * number + 0.12, top + 0.33, step - 0.24, 0.42)
        sheet.chip(chip, [name, says], colour=colour, is_solid=is_up)


def _draw_pod(sheet: Sheet, facts: MeshFacts, pod: Pod, left: float) -> None:
    is_up = facts.control_plane_pid is not None and pod.has_stream and pod.is_running
    sheet.box(left, _PODS, _POD, _POD_HEIGHT)
    inner, width = left + _GUTTER, _POD - _GUTTER - 0.07
    if not pod.is_gateway:
        sheet.chip(Chip(inner, _PODS + 0.08, width, 0.4), [pod.service, pod.version], colour=MUTED)
    proxy = Chip(inner, _PODS + 0.58, width, 0.4)
    title = "Proxy" if pod.is_gateway else "Proxy sidecar"
    words = "ingress gateway" if pod.is_gateway else f"{facts.received(pod)} requests"
    lines = [title, words if pod.is_running else "not running"]
    sheet.chip(proxy, lines, colour=GREEN, is_solid=pod.is_running)
    for number, (part, (colour, _)) in enumerate(PARTS.items()):
        if part == "Auth" and "SDS" not in pod.versions:
            continue
        x = left + 0.05 + 0.055 * number
        points = [
            (x, sum(_CONTROL)),
            (x, proxy.y + 0.12 + 0.08 * number),
            (inner, proxy.y + 0.12 + 0.08 * number),
        ]
        style = _STYLES.get(part, "-") if is_up else ":"
        sheet.line(points, colour=colour if is_up else MUTED, style=style)
    told = [f"{kind} {pod.versions[kind][:7]}" for kind in TYPES if kind in pod.versions]
    for row, pair in enumerate([told[:2], told[2:4], told[4:]]):
        sheet.words(inner, _PODS + 1.07 + 0.12 * row, "  ".join(pair), MUTED, size=6)
    if pod.nacks:
        sheet.words(inner + 0.42, _PODS + 1.31, f"{pod.nacks} NACK", RED, size=6)


def describe_mesh(facts: MeshFacts) -> str:
    """Say in words what `draw_mesh` draws."""
    pid = facts.control_plane_pid
    above = "not running" if pid is None else f"process {pid}"
    pods = "; ".join(_describe_pod(pod, is_up=pid is not None) for pod in facts.pods)
    calls = ", ".join(f"{source} to {to} {count}" for (source, to), count in sorted(facts.calls.items()))
    return (
        f"Control plane (Pilot, Auth, Mixer): {above}; it touches no request. Data plane: {pods}. "
        f"Requests between sidecars: {calls or 'none'}."
    )


def _describe_pod(pod: Pod, *, is_up: bool) -> str:
    if not pod.is_running:
        return f"{pod.name} with its sidecar not running"
    stream = "with a stream" if pod.has_stream and is_up else "without a stream"
    told = " ".join(f"{kind} {pod.versions[kind]}" for kind in TYPES if kind in pod.versions)
    refused = f", {pod.nacks} refused" if pod.nacks else ""
    return f"{pod.name} {stream}" + (f", {told}" if told else "") + refused


class MeshPanel:
    """The diagram with buttons: send requests, kill the control plane, restart it.

    Args:
        mesh: a running `cnlab.mesh.mesh.Mesh`.
        send: sends some requests of the application and says in one line what came back.
        read: how to read the mesh.
    """

    def __init__(
        self, mesh: Any, send: Callable[[], str], *, read: Callable[[Any], MeshFacts] = read_mesh
    ) -> None:
        self._mesh, self._send, self._read = mesh, send, read
        self.message = ""

    def picture(self) -> Picture:
        """Draw the mesh as it is now."""
        return draw_mesh(self._read(self._mesh))

    def do(self, action: Callable[[], object]) -> str:
        """Do something to the mesh and say how it went."""
        try:
            said = action()
        except (CnlabError, OSError) as error:
            self.message = str(error)
        else:
            self.message = said if isinstance(said, str) else "done"
        return self.message

    def _live(self, now: Picture) -> DOMWidget:
        import ipywidgets as widgets

        message = widgets.Label(self.message)
        image = widgets.Image(value=now.png(), width=now.width_px)

        def button(words: str, icon: str, action: Callable[[], object]) -> DOMWidget:
            def act(_button: object) -> None:
                message.value = self.do(action)
                drawn: list[Picture] = []
                if self.do(lambda: drawn.append(self.picture())) == "done":
                    image.value = drawn[0].png()

            made = widgets.Button(description=words, icon=icon, layout=widgets.Layout(width="16em"))
            made.on_click(act)
            return made

        plane = self._mesh.control_plane
        buttons = [
            button("send requests", "paper-plane", self._send),
            button("kill control plane", "bolt", lambda: plane.kill()),
            button("restart control plane", "refresh", lambda: plane.restart()),
            button("look again", "eye", lambda: None),
        ]
        return widgets.VBox([widgets.HBox(buttons), message, image])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        now = self.picture()
        static = f"{picture_to_html(now)}<p>{escape(_STATIC_NOTE)}</p>"
        return mimebundle(self._live(now), static_html=static, text=now.alt)
