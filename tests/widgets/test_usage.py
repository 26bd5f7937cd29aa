"""Readings of a group: what they say together, and the job that is watched."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cnlab.widgets.usage import Reading, describe, draw_usage, intervals, oom_moments, record, watch
from cnlab.widgets.usage_svg import usage_svg

FIRST = Reading(
    time_s=10.0,
    usage_usec=0,
    throttled_usec=0,
    memory_bytes=1 << 20,
    oom_kills=0,
    cpu_limit=None,
    memory_limit_bytes=None,
)
READINGS = [
    FIRST,
    replace(FIRST, time_s=10.5, usage_usec=500_000, memory_bytes=20 << 20),
    replace(FIRST, time_s=11.0, usage_usec=600_000, throttled_usec=400_000, cpu_limit=0.2, oom_kills=1),
]


class FakeClock:
    """A clock that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float, /) -> None:
        self.now_s += seconds


class FakeGroup:
    """A group whose jobs live for `lives` polls each; it remembers what was asked of it."""

    def __init__(self, *lives: int) -> None:
        self.lives = list(lives)
        self.started: list[list[str]] = []
        self.ended = 0
        self.limits_set: list[dict[str, object]] = []
        self.cpu_max = SimpleNamespace(quota_us=None, cpus=float("inf"))
        self.memory_current_bytes = 1 << 20
        self.memory_max_bytes = None

    def cpu_stat(self):
        return SimpleNamespace(usage_usec=0, throttled_usec=0)

    def memory_events(self):
        return SimpleNamespace(oom_kill=0)

    def set(self, **limits: object) -> None:
        self.limits_set.append(limits)

    @contextmanager
    def spawn(self, argv):
        self.started.append(argv)
        left = iter(range(self.lives.pop(0) if self.lives else 1000))
        try:
            yield SimpleNamespace(poll=lambda: None if next(left, None) is not None else -9)
        finally:
            self.ended += 1


def test_intervals_turn_counters_into_shares_of_time():
    """A counter says little; how much of the last half second it was says all."""
    first, second = intervals(READINGS)

    assert (1.0, 0.0) == (first.used, first.throttled)
    assert (0.2, 0.8) == (pytest.approx(second.used), pytest.approx(second.throttled))


def test_oom_moment_is_the_reading_that_saw_the_counter_grow():
    """A kill falls between two readings; the picture marks the later one."""
    assert [11.0] == oom_moments(READINGS)


def test_dead_job_is_started_again():
    """An orchestrator restarts what died; the picture should show the next tooth of the saw."""
    group = FakeGroup(2, 5)
    with closing(watch(group, ["job"], poll_s=1, clock=FakeClock())) as readings:
        times = [next(readings).time_s for _ in range(5)]

    assert [0, 1, 2, 3, 4] == times
    assert [["job"], ["job"]] == group.started


def test_closing_the_watch_ends_the_job():
    """A reader who interrupts a cell must not leave a busy loop behind."""
    group = FakeGroup()
    with closing(watch(group, ["job"], poll_s=1, clock=FakeClock())) as readings:
        next(readings)

    assert 1 == group.ended


def test_recording_changes_limits_when_they_are_due_and_stops_in_time():
    """The picture is explained by the programme, so the programme must be kept."""
    group = FakeGroup()
    changes = {2: {"cpu_max": "max"}, 1: {"cpu_max": (30_000, 100_000)}, 9: {"memory_max": "32M"}}
    readings = record(group, ["job"], seconds=3, changes=changes, poll_s=0.5, clock=FakeClock())

    assert [{"cpu_max": (30_000, 100_000)}, {"cpu_max": "max"}] == group.limits_set
    assert 3 == readings[-1].time_s
    assert 1 == group.ended


def test_words_say_what_the_picture_shows():
    """They are all that a screen reader has."""
    expected = (
        "CPU time and memory of a job over 1 s, with cpu.max down to 20 % of a CPU: it ran for 0.6 s and was "
        "throttled for 0.4 s; its memory reached 20 MiB; OOM kills: 1."
    )

    assert expected == describe(READINGS)
    assert expected == draw_usage(READINGS).alt


def test_picture_leaves_a_gap_where_there_is_no_limit():
    """A line at zero or at the top would be a limit that nobody set."""
    cpu, _ = draw_usage(READINGS).figure.axes
    (limit,) = [line for line in cpu.lines if line.get_label() == "cpu.max"]

    assert [False, False, True] == [value == value for value in limit.get_ydata()]


def test_live_drawing_has_a_bar_for_each_interval_and_shows_only_the_window():
    """Old readings scroll out; a drawing that grows would slow down what it measures."""
    whole, last = usage_svg(READINGS, window_s=30), usage_svg(READINGS, window_s=0.6)
    bars = 'fill="#'

    assert whole.count(bars) - last.count(bars) == 2
    assert 'role="img" aria-label="CPU time and memory' in whole


def test_live_drawing_takes_the_colour_of_the_page():
    """Text in a fixed colour vanishes in one of the two themes."""
    assert 'fill="currentColor"' in usage_svg(READINGS)
