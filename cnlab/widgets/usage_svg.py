"""The last half minute of a group as an SVG drawing, cheap enough to be drawn three times a second.

A matplotlib figure costs a quarter of a second on the private kernel, which has one CPU, and that CPU is what
is being measured. A few path strings cost nothing. Text and axes take the colour of the page around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from cnlab.widgets.usage import (
    KILLED,
    LIMIT,
    MEBIBYTE,
    THROTTLED,
    USED,
    Reading,
    describe,
    intervals,
    oom_moments,
)

WIDTH, HEIGHT, LEFT, GAP = 640, 110, 60, 34


def usage_svg(readings: Sequence[Reading], *, window_s: float = 30) -> str:
    """Return an ``<svg>`` of CPU time above and memory below over the last `window_s`."""
    end = readings[-1].time_s
    shown = [reading for reading in readings if reading.time_s >= end - window_s]
    top = _memory_top(shown)

    def x(time_s: float) -> float:
        return LEFT + WIDTH * (1 - (end - time_s) / window_s)

    def cpu_y(share: float) -> float:
        return 16 + HEIGHT * (1 - min(share, 1))

    def memory_y(size: float) -> float:
        return 16 + GAP + HEIGHT + HEIGHT * (1 - min(size / top, 1))

    parts = [_frame("CPU", "100 %", 16), _frame("memory", f"{top / MEBIBYTE:.0f} MiB", 16 + HEIGHT + GAP)]
    for step in intervals(shown):
        left, width = x(step.start_s), x(step.end_s) - x(step.start_s)
        parts.append(_bar(left, width, cpu_y(step.used + step.throttled), cpu_y(0), THROTTLED))
        parts.append(_bar(left, width, cpu_y(step.used), cpu_y(0), USED))
    parts.append(_line([(x(r.time_s), memory_y(r.memory_bytes)) for r in shown], USED))
    for before, after in pairwise(shown):
        span = x(before.time_s), x(after.time_s)
        if after.cpu_limit is not None:
            parts.append(_line([(at, cpu_y(after.cpu_limit)) for at in span], LIMIT))
        if after.memory_limit_bytes is not None:
            parts.append(_line([(at, memory_y(after.memory_limit_bytes)) for at in span], LIMIT))
    for moment in oom_moments(shown):
        parts.append(_line([(x(moment), memory_y(height)) for height in (0, top)], KILLED))
    size = f'viewBox="0 0 {LEFT + WIDTH + 10} {2 * HEIGHT + GAP + 50}" style="max-width: 720px; width: 100%"'
    return f'<svg {size} role="img" aria-label="{describe(shown)}">{"".join(parts)}{_legend()}</svg>'


def _memory_top(readings: Sequence[Reading]) -> float:
    """The top of the memory axis: a quarter above the largest number to be drawn."""
    sizes = [max(reading.memory_bytes, reading.memory_limit_bytes or 0) for reading in readings]
    return 1.25 * max(*sizes, MEBIBYTE)


def _frame(title: str, top: str, y: float) -> str:
    box = f'x="{LEFT}" y="{y}" width="{WIDTH}" height="{HEIGHT}"'
    words = [(10, top), (HEIGHT / 2, title), (HEIGHT, "0")]
    labels = "".join(_text(LEFT - 6, y + down, word) for down, word in words)
    return f'<rect {box} fill="none" stroke="currentColor" opacity="0.3"/>{labels}'


def _text(x: float, y: float, words: str, *, anchor: str = "end") -> str:
    place = f'x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="12" fill="currentColor">{words}</text>'


def _bar(left: float, width: float, top: float, bottom: float, colour: str) -> str:
    box = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"'
    return f'<rect {box} fill="{colour}"/>'


def _line(points: Iterable[tuple[float, float]], colour: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _legend() -> str:
    entries = [(USED, "used"), (THROTTLED, "throttled"), (LIMIT, "limit"), (KILLED, "OOM kill")]
    y = 2 * HEIGHT + GAP + 34
    return "".join(
        f'<rect x="{LEFT + 120 * place}" y="{y - 10}" width="12" height="12" fill="{colour}"/>'
        + _text(LEFT + 120 * place + 18, y, words, anchor="start")
        for place, (colour, words) in enumerate(entries)
    )
