"""The pens of the mesh diagram: boxes, chips, lines and arcs, in inches from the top left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnlab.widgets.picture import INK, LINE, MUTED, PAPER, bare_axes, new_figure


@dataclass(frozen=True, slots=True)
class Chip:
    """A rectangle; `y` is its upper edge and grows downwards."""

    x: float
    y: float
    width: float
    height: float


class Sheet:
    """A figure of which one unit is an inch."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = new_figure(width, height)
        self.figure.set_layout_engine("none")
        self._axes = bare_axes(self.figure)
        self._axes.set_position((0, 0, 1, 1))
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)

    def words(self, x: float, y: float, words: str, colour: str, *, size: float = 7.5) -> None:
        """Write from `x` on, around the line `y`."""
        self._axes.text(x, y, words, va="center", color=colour, fontsize=size)

    def box(self, x: float, y: float, width: float, height: float, *, is_solid: bool = True) -> None:
        """Draw a frame; with dots if what it stands for is not there."""
        self._patch(Chip(x, y, width, height), "white", LINE if is_solid else MUTED, is_solid)

    def chip(self, chip: Chip, lines: Sequence[str], *, colour: str, is_solid: bool = True) -> None:
        """Draw a filled box with a title and further lines in it; an outline if it is not there."""
        self._patch(chip, colour if is_solid else PAPER, colour if is_solid else MUTED, is_solid)
        ink = PAPER if is_solid else INK
        step = 0.15
        y = chip.y + chip.height / 2 - step * (len(lines) - 1) / 2
        for number, line in enumerate(lines):
            text = self._axes.text(chip.x + chip.width / 2, y + step * number, line, ha="center", va="center")
            text.set(color=ink, weight="normal" if number else "bold", fontsize=6.5 if number else 7.5)

    def line(self, points: Sequence[tuple[float, float]], *, colour: str, style: str = "-") -> None:
        """Draw a line with corners."""
        self._axes.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=1.3)

    def arc(
        self, start: float, end: float, y: float, depth: float, words: str, *, colour: str, width: float
    ) -> None:
        """Draw an arrow that hangs `depth` below the line `y`, with words at its lowest place."""
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path

        low = y + depth * 4 / 3  # a cubic curve comes three quarters of the way to its control points
        shift = 0.12 if end > start else -0.12
        path = Path(
            [(start + shift, y), (start + shift, low), (end - shift, low), (end - shift, y)],
            [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
        )
        arrow = FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=8, color=colour, linewidth=width)
        arrow.set_fill(False)
        self._axes.add_patch(arrow)
        ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.6}
        label = self._axes.text((start + end) / 2, y + depth, words, ha="center", va="center", bbox=ground)
        label.set(fontsize=6.5, color=INK)

    def _patch(self, chip: Chip, face: str, edge: str, is_solid: bool) -> None:
        from matplotlib.patches import FancyBboxPatch

        patch = FancyBboxPatch(
            (chip.x, chip.y),
            chip.width,
            chip.height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=face,
            edgecolor=edge,
            linestyle="-" if is_solid else ":",
            linewidth=1.1,
        )
        self._axes.add_patch(patch)
