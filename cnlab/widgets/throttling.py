"""See when a program ran and when it was made to wait.

Interface: ``trace(group, seconds=3)`` runs a program in a cgroup that looks at the clock again and again,
and returns those moments. Two looks far apart mean that the program stood still in between: nobody inside can
tell why, but `cpu.stat` can. ``draw_traces(free=…, limited=…)`` draws the standing still and the lap times.

See: "CFS Bandwidth Control", scheduler/sched-bwc in the kernel's documentation.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import quantiles
from typing import TYPE_CHECKING

from cnlab.errors import InvalidValue
from cnlab.widgets.picture import ACCENTS, BLUE, MUTED, ORANGE, Picture, new_figure, picture, plot_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cnlab.linux.cgroups import Cgroup

STEPS_PER_LAP = 10
WORK_PER_STEP = 20_000  # turns of an empty loop: some 0.3 ms
RUNNING, WAITING = BLUE, ORANGE


@dataclass(frozen=True, slots=True)
class Trace:
    """The moments, in seconds from the first, at which a program looked at the clock between equal steps."""

    moments_s: tuple[float, ...]

    @property
    def laps_ms(self) -> list[float]:
        """How long each lap of `STEPS_PER_LAP` steps took, standing still included."""
        ends = self.moments_s[::STEPS_PER_LAP]
        return [(end - start) * 1000 for start, end in pairwise(ends)]

    def waits(self, *, longer_than_s: float = 0.005) -> list[tuple[float, float]]:
        """Return (start, length) in seconds of each time the program stood still."""
        steps = pairwise(self.moments_s)
        return [(start, end - start) for start, end in steps if end - start > longer_than_s]

    def percentile_ms(self, percent: int) -> float:
        """Return the time in which `percent` of a hundred laps were done.

        Raises:
            InvalidValue: `percent` is not one of 1 to 99, or there are fewer than two laps.
        """
        laps = self.laps_ms
        if not 1 <= percent <= 99 or len(laps) < 2:
            raise InvalidValue(
                f"percentile {percent} of {len(laps)} laps: expected 1 to 99 of at least 2 laps"
            )
        return quantiles(laps, n=100, method="inclusive")[percent - 1]


def trace(group: Cgroup, *, seconds: float) -> Trace:
    """Run a busy program in `group` for `seconds` and return the moments at which it ran."""
    with group.spawn(lambda: _look_at_the_clock(seconds), capture=True) as child:
        assert child.stdout is not None, "it is captured"
        moments = array("d", child.stdout.buffer.read())
    return Trace(tuple(moment - moments[0] for moment in moments))


def _look_at_the_clock(seconds: float) -> None:
    moments = array("d", [time.perf_counter()])
    while moments[-1] < moments[0] + seconds:
        for _ in range(WORK_PER_STEP):
            pass
        moments.append(time.perf_counter())
    sys.stdout.buffer.write(moments)  # as numbers: printing them would cost a good part of a small quota
    sys.stdout.flush()


def draw_traces(*, window_s: float = 0.6, **traces: Trace) -> Picture:
    """Draw when each program ran in the last `window_s`, and how long its laps took."""
    figure = new_figure(7.5, 4.4)
    _draw_timeline(plot_axes(figure, rows=2, row=1), traces, window_s)
    _draw_latency(plot_axes(figure, rows=2, row=2), traces)
    said = "; ".join(f"{name}: {_describe(one)}" for name, one in traces.items())
    return picture(figure, alt=f"Above, when each program ran and stood still; below, its laps. {said}.")


def _describe(one: Trace) -> str:
    return (
        f"half within {one.percentile_ms(50):.1f} ms, 99 of 100 within {one.percentile_ms(99):.1f} ms, "
        f"stood still {len(one.waits(longer_than_s=0.02))} times for more than 20 ms"
    )


def _draw_timeline(axes: Axes, traces: dict[str, Trace], window_s: float) -> None:
    for row, one in enumerate(traces.values()):
        start = one.moments_s[-1] - window_s
        axes.broken_barh([(0, window_s * 1000)], (row - 0.35, 0.7), color=RUNNING)
        waits = [
            (max(at - start, 0), min(at - start, 0) + length)
            for at, length in one.waits()
            if at + length > start
        ]
        axes.broken_barh(
            [(at * 1000, length * 1000) for at, length in waits], (row - 0.35, 0.7), color=WAITING
        )
    axes.set(xlim=(0, window_s * 1000), xlabel="ms", yticks=range(len(traces)), yticklabels=list(traces))
    axes.invert_yaxis()
    axes.set_title(
        f"running (blue) and standing still (orange), the last {window_s:g} s", loc="left", fontsize=10
    )


def _draw_latency(axes: Axes, traces: dict[str, Trace]) -> None:
    for (name, one), colour in zip(traces.items(), ACCENTS, strict=False):
        laps = sorted(one.laps_ms)
        axes.plot(_percents(laps), laps, label=name, linewidth=2, color=colour)
    axes.axvline(99, color=MUTED, linewidth=1, linestyle=":")
    axes.set_yscale("log")
    axes.set_yticks([2, 5, 10, 20, 50, 100, 200], labels=["2", "5", "10", "20", "50", "100", "200"])
    axes.minorticks_off()
    axes.set(xlabel="percentile of the laps", ylabel="ms a lap", xlim=(0, 100))
    axes.set_title("the same lap, from the fastest to the slowest", loc="left", fontsize=10)
    axes.legend(frameon=False)


def _percents(values: Sequence[float]) -> list[float]:
    return [100 * (position + 1) / len(values) for position in range(len(values))]
