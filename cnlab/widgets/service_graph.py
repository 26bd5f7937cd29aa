"""Who calls whom: a node a service, an edge as wide as its traffic and as red as its errors.

Interface: `draw_graph` draws the edges that it is given, those of access logs or of two scrapes.
`ServiceGraph` reads such edges again and again and draws what has come since the last look. Services stand
from left to right in the order in which a request meets them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from operator import mul
from typing import TYPE_CHECKING, Any, Protocol

from cnlab.clock import SYSTEM_CLOCK, Clock
from cnlab.errors import CnlabError
from cnlab.widgets.mimebundle import mimebundle, picture_to_html
from cnlab.widgets.picture import (
    GREEN,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PAPER,
    RED,
    Picture,
    bare_axes,
    new_figure,
    picture,
)
from cnlab.widgets.service_layout import Place, lay_out

if TYPE_CHECKING:
    from ipywidgets import DOMWidget
    from matplotlib.axes import Axes

BAD_SHARE = 0.05  # of errors, from which an edge is red; below it and above nothing it is orange
_COLUMN, _ROW = 2.05, 0.85
_BOX = (1.15, 0.44)
_WORDS = (0.6, 0.13)  # what an edge's words take
_STATIC_NOTE = "In a running notebook, start draws what comes, once a second."


class EdgeLike(Protocol):
    """What is read of an edge."""

    @property
    def source(self) -> str:
        """Who called."""

    @property
    def destination(self) -> str:
        """Who was called."""

    @property
    def requests(self) -> float:
        """How many there were."""

    @property
    def errors(self) -> float:
        """How many of them failed."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over an edge between two looks."""

    source: str
    destination: str
    requests: float
    errors: float

    @property
    def error_share(self) -> float:
        """Errors by requests."""
        return self.errors / self.requests if self.requests else 0.0


def traffic_of(edges: Iterable[EdgeLike]) -> list[Traffic]:
    """Keep what is drawn of edges."""
    return [Traffic(edge.source, edge.destination, edge.requests, edge.errors) for edge in edges]


def since(edges: Iterable[EdgeLike], before: Iterable[EdgeLike]) -> list[Traffic]:
    """Return what has been added to counters; one that went backwards has started anew."""
    known = {(edge.source, edge.destination): edge for edge in before}
    added = []
    for now in traffic_of(edges):
        then = known.get((now.source, now.destination))
        if then is not None and then.requests <= now.requests:
            requests, errors = now.requests - then.requests, max(now.errors - then.errors, 0)
            now = Traffic(now.source, now.destination, requests, errors)
        added.append(now)
    return added


def draw_graph(edges: Iterable[EdgeLike]) -> Picture:
    """Draw who called whom."""
    traffic = traffic_of(edges)
    layout = lay_out((edge.source, edge.destination) for edge in traffic)
    columns, rows = max(layout.columns, 1), max(layout.rows, 1)
    figure = new_figure(max(_COLUMN * columns, 3.0), _ROW * rows + 0.1)
    axes = bare_axes(figure)
    axes.set_xlim(-_COLUMN / 2, _COLUMN * (columns - 0.5))
    axes.set_ylim(_ROW * rows, 0)
    busiest = max((edge.requests for edge in traffic), default=0) or 1
    taken: list[Place] = []  # by words
    for edge in traffic:
        way = [_at(place) for place in layout.ways[edge.source, edge.destination]]
        _draw_edge(axes, way, edge, busiest, taken)
    for name, place in layout.places.items():
        received = [edge.requests for edge in traffic if edge.destination == name]
        _draw_node(axes, name, _at(place), f"{sum(received):g} received" if received else "calls only")
    return picture(figure, alt=describe_graph(traffic))


def _at(place: Place) -> Place:
    """Turn column and row into inches."""
    return _COLUMN * place[0], _ROW * (place[1] + 0.5)


def colour_of(edge: Traffic) -> str:
    """Return the colour for a share of errors."""
    if not edge.requests:
        return LINE
    return RED if edge.error_share >= BAD_SHARE else ORANGE if edge.errors else GREEN


def _draw_edge(axes: Axes, way: Sequence[Place], edge: Traffic, busiest: float, taken: list[Place]) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    forwards = way[-1][0] > way[0][0]
    half = _BOX[0] / 2 if forwards else 0
    points = [(way[0][0] + half, way[0][1]), *way[1:-1], (way[-1][0] - half, way[-1][1])]
    bends = [points[0]]
    for (x, y), (next_x, next_y) in pairwise(points):  # it leaves and arrives level
        bend = 0.45 * (next_x - x)
        low = 0.0 if forwards else _ROW / 2  # a call backwards hangs below the boxes
        bends += [(x + bend, y + low), (next_x - bend, next_y + low), (next_x, next_y)]
    path = Path(bends, [Path.MOVETO, *[Path.CURVE4] * (len(bends) - 1)])
    arrow = FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=11, color=colour_of(edge), zorder=1)
    arrow.set(linewidth=1 + 4 * edge.requests / busiest, fill=False)
    axes.add_patch(arrow)
    words = f"{edge.requests:g}" + (f", {edge.error_share:.0%} errors" if edge.errors else "")
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}
    x, y = _free_place([way[1]] if len(way) > 2 else [], bends[:4], taken)
    taken.append((x, y))
    label = axes.text(x, y, words, ha="center", va="center", bbox=ground)
    label.set(fontsize=6.5, color=INK, zorder=2)


def _free_place(first: Sequence[Place], bends: Sequence[Place], taken: Sequence[Place]) -> Place:
    """Find a place for words on a cubic Bézier curve where no others are, `first` if there are none."""
    shares = [
        ((1 - part) ** 3, 3 * (1 - part) ** 2 * part, 3 * (1 - part) * part**2, part**3)
        for part in (0.5, 0.4, 0.6, 0.3, 0.7)
    ]
    xs, ys = zip(*bends, strict=True)
    places = [*first, *[(sum(map(mul, share, xs)), sum(map(mul, share, ys))) for share in shares]]
    width, height = _WORDS
    return next(
        ((x, y) for x, y in places if all(abs(x - a) > width or abs(y - b) > height for a, b in taken)),
        places[0],
    )


def _draw_node(axes: Axes, name: str, place: tuple[float, float], words: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    width, height = _BOX
    box = FancyBboxPatch(
        (place[0] - width / 2, place[1] - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor="white",
        edgecolor=MUTED,
        zorder=3,
    )
    axes.add_patch(box)
    for down, text, size, colour in ((-0.08, name, 8, INK), (0.1, words, 6.5, MUTED)):
        label = axes.text(place[0], place[1] + down, text, ha="center", va="center", zorder=4)
        label.set(fontsize=size, color=colour, weight="bold" if text == name else "normal")


def describe_graph(edges: Iterable[EdgeLike]) -> str:
    """Say in words what `draw_graph` draws."""
    told = "; ".join(
        f"{edge.source} to {edge.destination} {edge.requests:g} requests, {edge.errors:g} of them failed"
        for edge in sorted(edges, key=lambda edge: (edge.source, edge.destination))
    )
    return f"A graph of services: {told}." if told else "A graph of services: nobody has called anybody."


class ServiceGraph:
    """The graph as it is now, and a button that keeps drawing what comes.

    Args:
        read: returns the edges with all that they have counted so far.
        every_s: how often the live form looks.
        life_s: after how long it stops by itself.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[EdgeLike]],
        *,
        every_s: float = 1.0,
        life_s: float = 60.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._read, self._every_s, self._life_s, self._clock = read, every_s, life_s, clock
        self._told_to_stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen = traffic_of(read())

    def look(self) -> Picture:
        """Draw what has come since the last look."""
        now = traffic_of(self._read())
        new, self._seen = since(now, self._seen), now
        return draw_graph(new)

    def start(self, show: Callable[[Picture], None], say: Callable[[str], None]) -> None:
        """Look again and again in a thread, until `stop`, or for as long as the graph lives."""
        self.stop()
        self._told_to_stop.clear()
        self._thread = threading.Thread(target=self._keep_looking, args=(show, say), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and return when it has ended."""
        self._told_to_stop.set()
        if self._thread is not None:
            self._thread.join()

    def _keep_looking(self, show: Callable[[Picture], None], say: Callable[[str], None]) -> None:
        end = self._clock.monotonic() + self._life_s
        with contextlib.suppress(RuntimeError):  # the front end goes while we draw
            while self._clock.monotonic() < end and not self._told_to_stop.wait(self._every_s):
                try:
                    show(self.look())
                except (CnlabError, OSError) as error:  # the mesh is gone: so is what there was to see
                    say(str(error))
                    return
            say("stopped")

    def _live(self, first: Picture) -> DOMWidget:
        import ipywidgets as widgets

        begin = widgets.Button(description="start", icon="play")
        end = widgets.Button(description="stop", icon="stop")
        message = widgets.Label(f"all so far; start draws what comes, for {self._life_s:.0f} s")
        image = widgets.Image(value=first.png(), width=first.width_px)

        def show(now: Picture) -> None:
            image.value, image.width = now.png(), str(now.width_px)

        def say(words: str) -> None:
            message.value = words

        def start(_button: object) -> None:
            say(f"what came in the last {self._every_s:g} s")
            self.start(show, say)

        begin.on_click(start)
        end.on_click(lambda _button: self.stop())
        return widgets.VBox([widgets.HBox([begin, end, message]), image])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        first = draw_graph(self._seen)
        static = f"{picture_to_html(first)}<p>{escape(_STATIC_NOTE)}</p>"
        return mimebundle(self._live(first), static_html=static, text=first.alt)
