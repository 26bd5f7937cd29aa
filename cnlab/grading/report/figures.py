"""The report's figures: each says in words what it shows, and comes in a light and in a dark look.

They show numbers and the course's own names, nothing that a student has written.
"""

from __future__ import annotations

import base64
import io
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 96  # of a page; the picture itself has twice as many
MOST_ROWS = 20
_WIDTH_IN = 9.6


@dataclass(frozen=True, slots=True)
class Look:
    """The colours of a figure."""

    paper: str
    ink: str
    line: str
    bar: str
    full: str
    some: str
    none: str
    mark: str


LIGHT = Look("#fbfaf7", "#22262b", "#d5d3cc", "#2f6fb3", "#357f50", "#d9b44a", "#b93f38", "#b8651b")
DARK = Look("#1b1e22", "#e6e4de", "#3d434a", "#6ea8e0", "#5cb07e", "#d9b44a", "#e0736c", "#e3975a")


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A drawn figure and `alt`, which says what it shows."""

    figure: Figure
    alt: str

    def png(self) -> bytes:
        """Return the figure as a PNG file."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=2 * PIXELS_PER_INCH, metadata={"Software": None})
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


def distribution(percents: Sequence[float], look: Look = LIGHT) -> Picture:
    """Draw how many students have how many per cent of the points."""
    figure, axes = _plot(look, 2.6)
    counts, edges, _ = axes.hist(
        [min(100, max(0, each)) for each in percents], bins=range(0, 101, 5), color=look.bar, rwidth=0.92
    )
    _name_axes(axes, look, "points, % of all", "students")
    axes.set_xlim(0, 100)
    if not percents:
        return Picture(figure, "Nobody has been graded yet.")
    median = statistics.median(percents)
    axes.axvline(median, color=look.mark, linewidth=2)
    axes.annotate(
        f"median {median:.0f} %",
        (median, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        color=look.ink,
    )
    most = max(range(len(edges) - 1), key=lambda place: counts[place])
    return Picture(
        figure,
        f"Histogram of the points of {len(percents)} students: the median is {median:.0f} %, the lowest"
        f" {min(percents):.0f} %, the highest {max(percents):.0f} %; most, {counts[most]:.0f}, lie between"
        f" {edges[most]:.0f} and {edges[most + 1]:.0f} %.",
    )


def shares(
    names: Sequence[str],
    full: Sequence[float],
    some: Sequence[float],
    none: Sequence[float],
    look: Look = LIGHT,
) -> Picture:
    """Draw for each task or check how many students have all its points, some, and none."""
    from matplotlib.ticker import MaxNLocator

    shown = min(len(names), MOST_ROWS)
    figure, axes = _plot(look, 0.9 + 0.34 * shown)
    places = list(range(shown))
    starts = [0.0] * shown
    parts = (("all points", full, look.full), ("some", some, look.some), ("none", none, look.none))
    for label, counts, colour in parts:
        own = list(counts[:shown])
        axes.barh(places, own, left=starts, color=colour, label=label, height=0.72)
        starts = [start + count for start, count in zip(starts, own, strict=True)]
    labels = [textwrap.shorten(name, 46, placeholder=" …") for name in names[:shown]]
    axes.set_yticks(places, labels, parse_math=False)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # nobody is half a student
    _name_axes(axes, look, "students", "")
    axes.legend(
        ncols=3, frameon=False, labelcolor=look.ink, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0
    )
    said = (
        f"{name}: {a:.0f} all points, {b:.0f} some, {c:.0f} none"
        for name, a, b, c in zip(names[:shown], full, some, none, strict=False)
    )
    left_out = f" {len(names) - shown} more are in the table." if len(names) > shown else ""
    return Picture(figure, f"Bars of how many students have points. {'; '.join(said)}.{left_out}")


def times(seconds: Sequence[float], look: Look = LIGHT) -> Picture:
    """Draw how long the submissions ran."""
    figure, axes = _plot(look, 2.2)
    axes.hist(seconds, bins=30, color=look.bar, rwidth=0.92)
    _name_axes(axes, look, "run time of a submission, s", "submissions")
    axes.set_xlim(left=0)
    if not seconds:
        return Picture(figure, "No run times are known.")
    return Picture(
        figure,
        f"Histogram of the run times of {len(seconds)} submissions: the median is"
        f" {statistics.median(seconds):.2f} s, the longest {max(seconds):.2f} s, all together"
        f" {sum(seconds):.0f} s.",
    )


def arrivals(hours: Sequence[float], look: Look = LIGHT) -> Picture:
    """Draw when submissions came, in hours from the due date; those after it in another colour."""
    figure, axes = _plot(look, 2.2)
    early, late = [each for each in hours if each <= 0], [each for each in hours if each > 0]
    bins = _bins(hours)
    axes.hist([early, late], bins=bins, stacked=True, color=[look.bar, look.none], rwidth=0.92)
    axes.axvline(0, color=look.ink, linewidth=1)
    _name_axes(axes, look, "handed in, hours from the due date", "submissions")
    if not hours:
        return Picture(figure, "No arrival can be compared with a due date.")
    return Picture(
        figure,
        f"Histogram of when {len(hours)} submissions came: {len(late)} after the due date, the latest"
        f" {max(hours):.1f} hours from it, half of them after {statistics.median(hours):.1f} hours.",
    )


def _plot(look: Look, height_in: float) -> tuple[Figure, Axes]:
    """Return an empty plot; pyplot is not involved, so nothing needs closing."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(
        figsize=(_WIDTH_IN, height_in), dpi=2 * PIXELS_PER_INCH, facecolor=look.paper, layout="constrained"
    )
    axes = figure.add_subplot(facecolor=look.paper)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(look.line)
    axes.tick_params(colors=look.line, labelcolor=look.ink, length=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    return figure, axes


def _name_axes(axes: Axes, look: Look, below: str, beside: str) -> None:
    axes.set_xlabel(below, color=look.ink)
    axes.set_ylabel(beside, color=look.ink)


def _bins(hours: Sequence[float]) -> list[float]:
    """Return some thirty bins of equal width, one of which begins at the due date."""
    low, high = min([0.0, *hours]), max([0.0, *hours])
    width = max((high - low) / 30, 0.05)
    first = -int(-low / width + 1)
    return [width * place for place in range(first, int(high / width) + 2)]
