"""What a group used, what it was allowed, and what happened when the two met.

Interface: ``watch(group, argv)`` runs a job in the group, starts it again whenever it dies (as an
orchestrator would), and yields a `Reading` of the group's files at every turn. ``record`` keeps the readings
of a run whose limits change by a programme, ``draw_usage`` draws them. The live panel draws the same readings
as they come.

See: "CPU Interface Files" and "Memory Interface Files" in the kernel's cgroup v2 guide.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cnlab.clock import SYSTEM_CLOCK, Clock
from cnlab.widgets.picture import BLUE, ORANGE, PURPLE, RED, Picture, new_figure, picture, plot_axes

if TYPE_CHECKING:
    from cnlab.linux.cgroups import Cgroup

MEBIBYTE = 1 << 20
USED, THROTTLED, LIMIT, KILLED = BLUE, ORANGE, RED, PURPLE


@dataclass(frozen=True, slots=True)
class Reading:
    """A group's files, read at one moment; `cpu_limit` is a number of CPUs, None means no limit."""

    time_s: float
    usage_usec: int
    throttled_usec: int
    memory_bytes: int
    oom_kills: int
    cpu_limit: float | None
    memory_limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class Interval:
    """What happened between two readings; shares are of one CPU's time."""

    start_s: float
    end_s: float
    used: float
    throttled: float


def read_group(group: Cgroup, *, clock: Clock = SYSTEM_CLOCK) -> Reading:
    """Read what `group` has used and what it may use, now."""
    stat, cpu_max = group.cpu_stat(), group.cpu_max
    return Reading(
        time_s=clock.monotonic(),
        usage_usec=stat.usage_usec,
        throttled_usec=stat.throttled_usec,
        memory_bytes=group.memory_current_bytes,
        oom_kills=group.memory_events().oom_kill,
        cpu_limit=None if cpu_max.quota_us is None else cpu_max.cpus,
        memory_limit_bytes=group.memory_max_bytes,
    )


def intervals(readings: Sequence[Reading]) -> list[Interval]:
    """Turn counters, which only grow, into shares of the time between one reading and the next."""
    return [
        Interval(
            before.time_s,
            after.time_s,
            used=(after.usage_usec - before.usage_usec) / 1e6 / (after.time_s - before.time_s),
            throttled=(after.throttled_usec - before.throttled_usec) / 1e6 / (after.time_s - before.time_s),
        )
        for before, after in pairwise(readings)
    ]


def oom_moments(readings: Sequence[Reading]) -> list[float]:
    """Return the times of the readings that saw the OOM killer had been at work."""
    return [after.time_s for before, after in pairwise(readings) if after.oom_kills > before.oom_kills]


def watch(
    group: Cgroup, argv: Sequence[str], *, poll_s: float = 0.3, clock: Clock = SYSTEM_CLOCK
) -> Generator[Reading]:
    """Run `argv` in `group` and yield a reading every `poll_s`; start it again whenever it has died.

    Closing the iterator ends the job.
    """
    with ExitStack() as job:
        child = job.enter_context(group.spawn(argv))
        while True:
            yield read_group(group, clock=clock)
            clock.sleep(poll_s)
            if child.poll() is not None:
                job.close()
                child = job.enter_context(group.spawn(argv))


def record(
    group: Cgroup,
    argv: Sequence[str],
    *,
    seconds: float,
    changes: Mapping[float, Mapping[str, Any]],
    poll_s: float = 0.3,
    clock: Clock = SYSTEM_CLOCK,
) -> list[Reading]:
    """Watch a job for `seconds` while its limits change, and return the readings.

    Args:
        group: where the job runs.
        argv: the job.
        seconds: how long to watch.
        changes: by the second since the start: what to give to `Cgroup.set` then.
        poll_s: seconds between two readings.
        clock: what tells the time.
    """
    due = sorted(changes.items(), key=lambda change: change[0], reverse=True)
    readings: list[Reading] = []
    with closing(watch(group, argv, poll_s=poll_s, clock=clock)) as coming:
        for reading in coming:
            readings.append(reading)
            elapsed = reading.time_s - readings[0].time_s
            while due and due[-1][0] <= elapsed:
                group.set(**due.pop()[1])
            if elapsed >= seconds:
                break
    return readings


def draw_usage(readings: Sequence[Reading]) -> Picture:
    """Draw CPU time used and throttled, memory, limits and OOM kills over time."""
    start = readings[0].time_s
    steps = intervals(readings)
    edges = [step.start_s - start for step in steps] + [steps[-1].end_s - start]
    times = [reading.time_s - start for reading in readings]
    used = [100 * step.used for step in steps]
    reached = [100 * (step.used + step.throttled) for step in steps]
    figure = new_figure(7.5, 4.2)
    cpu, memory = plot_axes(figure, rows=2, row=1), plot_axes(figure, rows=2, row=2)
    cpu.stairs(reached, edges, fill=True, color=THROTTLED, label="throttled")
    cpu.stairs(used, edges, fill=True, color=USED, label="used")
    cpu_limits = _or_gap([r.cpu_limit for r in readings], 0.01)
    cpu.step(times, cpu_limits, where="pre", color=LIMIT, label="cpu.max")
    cpu.set(ylim=(0, 115), ylabel="% of a CPU")
    memory.plot(times, [r.memory_bytes / MEBIBYTE for r in readings], color=USED, label="memory.current")
    limits = _or_gap([r.memory_limit_bytes for r in readings], MEBIBYTE)
    memory.step(times, limits, where="pre", color=LIMIT, label="memory.max")
    for nth, moment in enumerate(oom_moments(readings)):
        memory.axvline(moment - start, color=KILLED, linestyle=":", label=None if nth else "OOM kill")
    memory.set(ylim=(0, None), ylabel="MiB", xlabel="seconds")
    for axes in (cpu, memory):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axes.set_xlim(0, edges[-1])
    return picture(figure, alt=describe(readings))


def _or_gap(limits: Sequence[float | None], unit: float) -> list[float]:
    """Give limits in `unit`; where there is none the line has a gap."""
    return [float("nan") if limit is None else limit / unit for limit in limits]


def describe(readings: Sequence[Reading]) -> str:
    """Say in words what `draw_usage` draws."""
    first, last = readings[0], readings[-1]
    seconds = last.time_s - first.time_s
    lowest = min((reading.cpu_limit for reading in readings if reading.cpu_limit is not None), default=None)
    allowed = "no limit on the CPU" if lowest is None else f"cpu.max down to {100 * lowest:.0f} % of a CPU"
    return (
        f"CPU time and memory of a job over {seconds:.0f} s, with {allowed}: it ran for "
        f"{(last.usage_usec - first.usage_usec) / 1e6:.1f} s and was throttled for "
        f"{(last.throttled_usec - first.throttled_usec) / 1e6:.1f} s; its memory reached "
        f"{max(reading.memory_bytes for reading in readings) / MEBIBYTE:.0f} MiB; "
        f"OOM kills: {last.oom_kills - first.oom_kills}."
    )
