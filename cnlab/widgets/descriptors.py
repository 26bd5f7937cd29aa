"""What points at what in an image layout: names, indexes, manifests, configs and layers.

A blob that several things point at is drawn once, as it is stored once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cnlab.containers.images.descriptor import Descriptor
from cnlab.containers.images.layout import Layout
from cnlab.widgets.picture import (
    BLUE,
    CYAN,
    GREEN,
    LINE,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    Picture,
    bare_axes,
    new_figure,
    picture,
)

_COLOURS = {"name": ORANGE, "index": CYAN, "manifest": BLUE, "config": PURPLE, "layer": GREEN}
_WIDTH, _HEIGHT = 0.66, 0.76  # of a box; columns and rows are 1 apart


@dataclass(frozen=True, slots=True)
class Node:
    """Something that can be pointed at: a name in index.json, or a blob."""

    key: str  # the digest, or the name
    kind: str  # a key of _COLOURS
    size: int = 0  # bytes

    @property
    def label(self) -> str:
        """What is written into its box."""
        return self.key if self.kind == "name" else f"{self.kind}\n{self.key[:15]}…\n{self.size:,} bytes"


@dataclass(frozen=True, slots=True)
class Edge:
    """A descriptor: from `source` to `target`, and for which platform, if it says so."""

    source: Node
    target: Node
    platform: str = ""


def edges_below(layout: Layout, *names: str) -> list[Edge]:
    """Follow the descriptors from `names` down, and return each once."""
    tags = layout.tags()
    found = []
    for name in names:
        root = tags[name]
        start = Node(name, "name")
        found += [Edge(start, _node(root)), *_follow(layout, root)]
    return list(dict.fromkeys(found))


def _node(descriptor: Descriptor, kind: str = "") -> Node:
    kind = kind or ("index" if descriptor.is_index else "manifest")
    return Node(descriptor.digest, kind, descriptor.size)


def _follow(layout: Layout, descriptor: Descriptor) -> Iterator[Edge]:
    content = layout.read_json(descriptor)
    here = _node(descriptor)
    for entry in content.get("manifests", ()):
        below = Descriptor.from_json(entry)
        yield Edge(here, _node(below), str(below.platform or ""))
        yield from _follow(layout, below)
    for entry in (content["config"], *content["layers"]) if descriptor.is_manifest else ():
        kind = "config" if entry is content["config"] else "layer"
        yield Edge(here, _node(Descriptor.from_json(entry), kind))


def columns(edges: list[Edge]) -> dict[Node, tuple[int, int]]:
    """Return a column and a row for each node: what points stands left of what it points at."""
    depth: dict[Node, int] = {}
    for _ in range(len(edges) + 1):  # a longer way moves a node further right
        for edge in edges:
            left = depth.setdefault(edge.source, 0)
            depth[edge.target] = max(depth.get(edge.target, 0), left + 1)
    rows: dict[int, int] = {}
    places = {}
    for node, column in depth.items():
        places[node] = (column, rows.setdefault(column, 0))
        rows[column] += 1
    return places


def draw_descriptors(layout: Layout, *names: str) -> Picture:
    """Draw what the names in a layout's index.json lead to."""
    from matplotlib.patches import FancyBboxPatch

    edges = edges_below(layout, *names)
    places = columns(edges)
    width, height = (1 + max(place[axis] for place in places.values()) for axis in (0, 1))
    figure = new_figure(2.35 * width, 0.72 * height + 0.1)
    axes = bare_axes(figure)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    for edge in edges:
        (left, above), (right, below) = places[edge.source], places[edge.target]
        start, end = (left + _WIDTH / 2, above), (right - _WIDTH / 2, below)
        arrow = {"arrowstyle": "->", "color": MUTED, "lw": 1, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end, start, arrowprops=arrow)
        if edge.platform:
            middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
            paper = {"facecolor": PAPER, "edgecolor": PAPER, "pad": 1}
            axes.text(*middle, edge.platform, ha="center", va="center", color=MUTED, fontsize=8, bbox=paper)
    for node, (column, row) in places.items():
        corner = (column - _WIDTH / 2, row - _HEIGHT / 2)
        style = "round,pad=0,rounding_size=0.05"
        box = FancyBboxPatch(
            corner, _WIDTH, _HEIGHT, boxstyle=style, facecolor=_COLOURS[node.kind], edgecolor=LINE
        )
        axes.add_patch(box)
        axes.text(column, row, node.label, ha="center", va="center", color=PAPER, fontsize=8.5)
    return picture(figure, alt=describe(edges))


def describe(edges: list[Edge]) -> str:
    """Say in words what the picture draws."""
    pointers: dict[Node, list[str]] = {}
    times: dict[Node, int] = {}
    for edge in edges:
        platform = f" for {edge.platform}" if edge.platform else ""
        pointers.setdefault(edge.source, []).append(f"{_say(edge.target)}{platform}")
        times[edge.target] = times.get(edge.target, 0) + 1
    shared = [_say(node) for node, count in times.items() if count > 1]
    told = [f"{_say(source)} points at {', '.join(targets)}." for source, targets in pointers.items()]
    return " ".join([*told, f"Pointed at more than once: {', '.join(shared) or 'nothing'}."])


def _say(node: Node) -> str:
    return node.key if node.kind == "name" else f"{node.kind} {node.key[7:13]}"
