"""A figure that says in words what it shows, and the one look of all of them.

The words stand beside the picture in the same output: a front end shows the picture, a terminal the words,
and the rendered book makes them the picture's alternative text.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = "#fbfaf7"  # opaque: the same picture is read in light and in dark themes
INK = "#22262b"
MUTED = "#6b7178"
LINE = "#d5d3cc"
QUIET = "#e9e7e0"  # what is there but is not the point
BLUE, ORANGE, GREEN, PURPLE = "#2f6fb3", "#b8651b", "#357f50", "#7b5ea7"
CYAN, YELLOW, RED = "#2b7f89", "#8f7310", "#b93f38"
ACCENTS = (BLUE, ORANGE, GREEN, PURPLE, CYAN, YELLOW, RED)
PIXELS_PER_INCH = 96  # of a page; the picture itself has twice as many


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure on paper; pyplot is not involved, so nothing needs closing."""
    from matplotlib.figure import Figure

    return Figure(
        figsize=(width_in, height_in), dpi=2 * PIXELS_PER_INCH, facecolor=PAPER, layout="constrained"
    )


def bare_axes(figure: Figure) -> Axes:
    """Return axes without frame or ticks that fill `figure`: a sheet to draw on."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    return axes


def plot_axes(figure: Figure, *, rows: int = 1, row: int = 1) -> Axes:
    """Return axes for a plot, the `row`-th of `rows` below each other: no box, quiet ticks."""
    axes = figure.add_subplot(rows, 1, row, facecolor=PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=MUTED, labelcolor=INK, length=0)
    return axes


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A drawn figure and `alt`, one or two sentences that say what it shows."""

    figure: Figure
    alt: str

    def png(self, *, dpi: int = 2 * PIXELS_PER_INCH) -> bytes:
        """Return the figure as a PNG file."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=dpi)
        return file.getvalue()

    @property
    def width_px(self) -> int:
        """How wide the picture stands on a page."""
        return round(self.figure.get_figwidth() * PIXELS_PER_INCH)

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        data = {"image/png": base64.b64encode(self.png()).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt, "width": self.width_px}}


def picture(figure: Figure, *, alt: str) -> Picture:
    """Give `figure` the words that say what it shows; as the last value of a cell it is displayed."""
    return Picture(figure, " ".join(alt.split()))
