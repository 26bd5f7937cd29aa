"""The four golden signals over time, a line for each service; and a panel that makes a service ill for real.

Interface: ``draw_signals({"traffic: requests a second": series, …})`` takes what a query over time returns,
from Prometheus or from our own scraper. `SignalsPanel` calls `change` when the reader moves a slider and then
draws what `read` returns; its static form is the picture of what was before.

See: "The Four Golden Signals" in *Site Reliability Engineering*, chapter 6.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cnlab.errors import CnlabError
from cnlab.widgets.mimebundle import mimebundle, picture_to_html
from cnlab.widgets.picture import ACCENTS, INK, LINE, MUTED, Picture, new_figure, picture, plot_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STATIC_NOTE = (
    "In a running notebook, two sliders make the service fail or slow, and requests are sent to see it."
)
_GAP = 0.11  # between two names at the right edge, as a share of the height


class SeriesLike(Protocol):
    """What is read of a series."""

    @property
    def labels(self) -> Mapping[str, str]:
        """What it is about."""

    @property
    def times(self) -> Sequence[float]:
        """When, in seconds since 1970."""

    @property
    def values(self) -> Sequence[float]:
        """How much."""


def draw_signals(
    panels: Mapping[str, Sequence[SeriesLike]],
    *,
    label: str = "service",
    marks: Mapping[float, str] | None = None,
) -> Picture:
    """Draw a panel for each signal, one below the other, with a line for each value of `label`.

    Args:
        panels: series by what the panel is called.
        label: the label that tells lines apart.
        marks: what happened, by its time in seconds since 1970.
    """
    series = [one for panel in panels.values() for one in panel]
    names = sorted({one.labels.get(label, "all") for one in series})
    colours = {name: ACCENTS[number % len(ACCENTS)] for number, name in enumerate(names)}
    start = min((time for one in series for time in one.times), default=0.0)
    end = max((time for one in series for time in one.times), default=1.0)
    figure = new_figure(8.0, 1.25 * len(panels) + 0.4)
    for row, (title, lines) in enumerate(panels.items(), start=1):
        axes = plot_axes(figure, rows=len(panels), row=row)
        axes.set_title(title, loc="left", fontsize=9, color=INK)
        _draw_lines(axes, {one.labels.get(label, "all"): one for one in lines}, colours, start)
        axes.set_xlim(0, max(end - start, 1e-9))
        axes.set_ylim(0, axes.get_ylim()[1] * (1.25 if marks and row == 1 else 1))  # room for what happened
        _draw_marks(axes, marks or {}, start, is_named=row == 1)
        _draw_names(axes, {one.labels.get(label, "all"): one.values[-1] for one in lines}, colours)
        axes.tick_params(labelbottom=row == len(panels), labelsize=8)
    axes.set_xlabel("seconds", fontsize=8, color=MUTED)
    return picture(figure, alt=_describe(panels, label))


def _draw_lines(
    axes: Axes, lines: Mapping[str, SeriesLike], colours: Mapping[str, str], start: float
) -> None:
    axes.grid(axis="y", color=LINE, linewidth=0.5)
    for name, one in lines.items():
        times = [time - start for time in one.times]
        axes.plot(times, one.values, color=colours[name], linewidth=1.6, label=name)


def _draw_marks(axes: Axes, marks: Mapping[float, str], start: float, *, is_named: bool) -> None:
    for time, what in marks.items():
        axes.axvline(time - start, color=MUTED, linewidth=0.8, linestyle=":")
        if is_named:
            axes.annotate(
                what,
                (time - start, 1),
                (3, -1),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                fontsize=7,
                color=MUTED,
            )


def _draw_names(axes: Axes, last: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Write the names at the right edge, beside the ends of their lines, none upon another."""
    top = axes.get_ylim()[1] or 1.0
    finite = {name: value for name, value in last.items() if math.isfinite(value)}
    height = -1.0
    for name, value in sorted(finite.items(), key=lambda pair: pair[1]):
        height = max(value / top, height + _GAP)
        axes.annotate(
            name,
            (1, height),
            (4, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=colours[name],
            annotation_clip=False,
        )


def _describe(panels: Mapping[str, Sequence[SeriesLike]], label: str) -> str:
    said = []
    for title, lines in panels.items():
        most = {one.labels.get(label, "all"): _most(one.values) for one in lines}
        each = ", ".join(f"{name} at most {value:.3g}" for name, value in sorted(most.items()))
        said.append(f"{title}: {each or 'nothing'}.")
    return "Lines over time. " + " ".join(said)


def _most(values: Sequence[float]) -> float:
    return max((value for value in values if math.isfinite(value)), default=0.0)


class SignalsPanel:
    """Two sliders that make a service ill, and the signals that come of it."""

    def __init__(
        self,
        before: Picture,
        *,
        service: str,
        change: Callable[[float, float], None],
        read: Callable[[], Picture],
    ) -> None:
        """Make a panel; nothing happens before a slider is moved.

        Args:
            before: the static form.
            service: whom the sliders are about.
            change: told the share of requests to fail, 0 to 1, and the seconds to wait; sends requests too.
            read: draws what came of it.
        """
        self._before, self._change, self._read = before, change, read
        self._make_widgets(service)

    def _make_widgets(self, service: str) -> None:
        import ipywidgets as widgets  # 0.5 s: paid by a notebook that has a panel

        wide: dict[str, Any] = {"style": {"description_width": "210px"}, "continuous_update": False}
        self.failing = widgets.IntSlider(
            value=0, max=100, step=10, description=f"{service} fails, % of requests", **wide
        )
        self.slow = widgets.IntSlider(value=0, max=300, step=50, description=f"{service} waits, ms", **wide)
        for slider in (self.failing, self.slow):
            slider.layout.width = "520px"
            slider.observe(self._move, names="value")
        self.said = widgets.HTML("Move a slider: requests are sent, and the chart is drawn anew.")
        self.chart = widgets.HTML(picture_to_html(self._before))
        self.view = widgets.VBox([self.failing, self.slow, self.said, self.chart])

    def _move(self, _change: object) -> None:
        self.said.value = "sending requests …"
        try:
            self._change(self.failing.value / 100, self.slow.value / 1000)
            drawn = self._read()
        except (OSError, CnlabError) as error:
            self.said.value = html.escape(str(error))
            return
        self.said.value = html.escape(f"{self.failing.value} % fail, {self.slow.value} ms more")
        self.chart.value = picture_to_html(drawn)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        static_html = f"{picture_to_html(self._before)}<p>{html.escape(STATIC_NOTE)}</p>"
        return mimebundle(self.view, static_html=static_html, text=f"{self._before.alt}\n{STATIC_NOTE}")
