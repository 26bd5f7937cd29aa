"""How long it takes to stop: one bar a process, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cnlab.widgets.picture import GREEN, INK, MUTED, RED, Picture, new_figure, picture, plot_axes


@dataclass(frozen=True, slots=True)
class Stop:
    """How a process took being stopped: when it was gone, and how, as `Child.poll` tells it."""

    seconds: float
    returncode: int

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.returncode == -9

    @property
    def told(self) -> str:
        """In words, with the exit code a container engine reports."""
        code = 128 - self.returncode if self.returncode < 0 else self.returncode
        return f"{self.seconds:.2f} s, exit {code}{', killed' if self.was_killed else ''}"


def draw_stops(stops: Mapping[str, Stop], *, grace_s: float) -> Picture:
    """Draw one bar a process: green where it went in time, red where it had to be killed."""
    figure = new_figure(8, 0.55 + 0.42 * len(stops))
    axes = plot_axes(figure)
    names, results = list(stops), list(stops.values())
    seconds = [stop.seconds for stop in results]
    fills = [RED if stop.was_killed else GREEN for stop in results]
    axes.barh(names, seconds, color=fills, height=0.62)
    axes.axvline(grace_s, color=MUTED, lw=1, ls="--")
    axes.text(grace_s, -0.62, " SIGKILL", color=MUTED, fontsize=8, va="bottom")
    for row, stop in enumerate(results):
        axes.text(stop.seconds + grace_s * 0.015, row, f"  {stop.told}", va="center", color=INK, fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(0, grace_s * 1.6)
    axes.set_xlabel("seconds from SIGTERM to the end", color=MUTED, fontsize=8.5)
    axes.tick_params(labelsize=9)
    return picture(figure, alt=describe_stops(stops))


def describe_stops(stops: Mapping[str, Stop]) -> str:
    """Say in words what `draw_stops` draws."""
    return "Time to stop. " + "; ".join(f"{name}: {stop.told}" for name, stop in stops.items()) + "."
