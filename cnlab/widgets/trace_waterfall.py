"""One trace as a waterfall: a row a span, callers above callees, time from left to right.

A span's bar is pale where it waits for the spans that it has called and full where the time is its own. What
has no parent in the trace stands at the left edge, so a trace that somebody has broken shows as several.

See: "Traces" in OpenTelemetry's documentation; W3C Trace Context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from cnlab.widgets.mimebundle import mimebundle, picture_to_html
from cnlab.widgets.picture import ACCENTS, INK, MUTED, RED, Picture, new_figure, picture, plot_axes

if TYPE_CHECKING:
    from ipywidgets import DOMWidget
    from matplotlib.axes import Axes

_COLOURS = tuple(accent for accent in ACCENTS if accent != RED)  # red is for errors
_MILLISECOND = 1e6  # in nanoseconds
_LABELS = 210  # points that the labels take, left of the time axis
_SAID = 12  # spans that the words go through one by one


class SpanLike(Protocol):
    """What is read of a span; ids are hexadecimal, and a root has the empty one as its parent."""

    @property
    def span_id(self) -> str:
        """Its own id."""

    @property
    def parent_span_id(self) -> str:
        """The id of the span that called it."""

    @property
    def service(self) -> str:
        """Who reported it."""

    @property
    def name(self) -> str:
        """What was done."""

    @property
    def start_ns(self) -> int:
        """When it began, in nanoseconds since 1970."""

    @property
    def end_ns(self) -> int:
        """When it ended."""

    @property
    def is_error(self) -> bool:
        """Whether it failed."""


@dataclass(frozen=True, slots=True)
class Row:
    """A span in its place; times are in milliseconds since the trace began."""

    span: SpanLike
    depth: int
    start_ms: float
    end_ms: float
    own: tuple[tuple[float, float], ...]  # when no child was at work

    @property
    def duration_ms(self) -> float:
        """How long it took."""
        return self.end_ms - self.start_ms

    @property
    def own_ms(self) -> float:
        """How much of that no child was at work."""
        return sum(end - start for start, end in self.own)


def arrange(spans: Sequence[SpanLike]) -> list[Row]:
    """Put the spans of a trace in order: each below its caller, in the order of their starts."""
    ids = {span.span_id for span in spans}
    children: dict[str, list[SpanLike]] = {}
    for span in sorted(spans, key=lambda span: span.start_ns):
        is_root = span.parent_span_id not in ids or span.parent_span_id == span.span_id
        children.setdefault("" if is_root else span.parent_span_id, []).append(span)
    begin = min((span.start_ns for span in spans), default=0)

    def since(time_ns: int) -> float:
        return (time_ns - begin) / _MILLISECOND

    def below(parent: str, depth: int) -> Iterator[Row]:
        for span in children.get(parent, []):
            called = [(child.start_ns, child.end_ns) for child in children.get(span.span_id, [])]
            own = tuple((since(start), since(end)) for start, end in _gaps(span, called))
            yield Row(span, depth, since(span.start_ns), since(span.end_ns), own)
            yield from below(span.span_id, depth + 1)

    return list(below("", 0))


def _gaps(span: SpanLike, called: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The time of `span` without that of the spans it has called; `called` is in the order of starts."""
    at = span.start_ns
    for start, end in called:
        if start > at:
            yield at, min(start, span.end_ns)
        at = max(at, end)
    if at < span.end_ns:
        yield at, span.end_ns


def draw_trace(spans: Sequence[SpanLike]) -> Picture:
    """Draw the spans of one trace, which may come in any order."""
    rows = arrange(spans)
    figure = new_figure(8.5, 0.75 + 0.26 * max(len(rows), 1))
    axes = plot_axes(figure)
    services = list(dict.fromkeys(row.span.service for row in rows))
    longest = max((row.end_ms for row in rows), default=1)
    for y, row in enumerate(rows):
        colour = _COLOURS[services.index(row.span.service) % len(_COLOURS)]
        _draw_row(axes, y, row, RED if row.span.is_error else colour, longest)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, longest * 1.12), yticks=[], xlabel="milliseconds")
    axes.spines["left"].set_visible(False)
    return picture(figure, alt=describe_trace(spans))


def _draw_row(axes: Axes, y: int, row: Row, colour: str, longest_ms: float) -> None:
    axes.barh(
        y, max(row.duration_ms, longest_ms / 500), left=row.start_ms, height=0.62, color=colour, alpha=0.3
    )
    for begin, end in row.own:
        axes.barh(y, end - begin, left=begin, height=0.62, color=colour)
    words = f"{row.duration_ms:.1f} ms" + (" error" if row.span.is_error else "")
    axes.text(row.end_ms + longest_ms / 100, y, words, va="center", color=MUTED, fontsize=7)
    label = axes.annotate(
        row.span.service,
        (0, y),
        (8 * row.depth - _LABELS, 0),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
    )
    label.set(fontsize=8, weight="bold")
    label.set_color(RED if row.span.is_error else INK)
    name = row.span.name if len(row.span.name) <= 34 else row.span.name[:33] + "…"
    axes.annotate(
        name, (1, 0.5), (5, 0), xycoords=label, textcoords="offset points", va="center", fontsize=7
    ).set_color(MUTED)


def describe_trace(spans: Sequence[SpanLike]) -> str:
    """Say in words what `draw_trace` draws."""
    rows = arrange(spans)
    if not rows:
        return "A trace without spans."
    roots = sum(row.depth == 0 for row in rows)
    services = len({row.span.service for row in rows})
    whole = max(row.end_ms for row in rows)
    told = "; ".join(
        f"{row.span.service} {row.span.name} at {row.start_ms:.1f} ms for "
        f"{row.duration_ms:.1f} ms, {row.own_ms:.1f} ms its own" + (", error" if row.span.is_error else "")
        for row in rows[:_SAID]
    )
    more = f"; and {len(rows) - _SAID} more" if len(rows) > _SAID else ""
    return (
        f"A trace of {len(rows)} spans from {services} services over {whole:.1f} ms, in {roots} "
        f"{'piece' if roots == 1 else 'pieces'}: {told}{more}."
    )


class TraceWaterfall:
    """Traces to choose from, and to look for anew.

    Args:
        read: returns the traces there are now, each as its spans; asked again by *look again*.
    """

    def __init__(self, read: Callable[[], Sequence[Sequence[SpanLike]]]) -> None:
        self._read = read
        self.look_again()

    def look_again(self) -> None:
        """Read the traces, and put the longest first."""
        self.traces = sorted((list(spans) for spans in self._read() if spans), key=_duration_ms, reverse=True)

    def titles(self) -> list[str]:
        """Return what each trace is called in the list."""
        return [_title(number, spans) for number, spans in enumerate(self.traces, start=1)]

    def picture(self, number: int = 0) -> Picture:
        """Draw the trace with this place in the list."""
        return draw_trace(self.traces[number] if self.traces else [])

    def _live(self, first: Picture) -> DOMWidget:
        import ipywidgets as widgets

        chosen = widgets.Dropdown(options=_numbered(self.titles()), description="trace")
        chosen.layout.width = "36em"
        again = widgets.Button(description="look again", icon="refresh")
        image = widgets.Image(value=first.png(), width=first.width_px)

        def show(_change: object = None) -> None:
            now = self.picture(chosen.value or 0)
            image.value, image.width = now.png(), str(now.width_px)

        def look(_button: object) -> None:
            self.look_again()
            chosen.options = _numbered(self.titles())
            show()

        chosen.observe(show, names="value")
        again.on_click(look)
        return widgets.VBox([widgets.HBox([chosen, again]), image])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        first = self.picture()
        note = escape(f"The longest of {len(self.traces)} traces; in a running notebook all can be chosen.")
        static = f"{picture_to_html(first)}<p>{note}</p>"
        return mimebundle(self._live(first), static_html=static, text=first.alt)


def _numbered(titles: Sequence[str]) -> list[tuple[str, int]]:
    return [(title, number) for number, title in enumerate(titles)]


def _duration_ms(spans: Sequence[SpanLike]) -> float:
    return (max(span.end_ns for span in spans) - min(span.start_ns for span in spans)) / _MILLISECOND


def _title(number: int, spans: Sequence[SpanLike]) -> str:
    root = arrange(spans)[0].span
    failed = ", with errors" if any(span.is_error for span in spans) else ""
    return f"{number}: {root.name}, {_duration_ms(spans):.1f} ms, {len(spans)} spans{failed}"
