"""Bars of who has how much."""

from types import SimpleNamespace

import pytest
from matplotlib.colors import to_hex

from cnlab.widgets.picture import BLUE, RED
from cnlab.widgets.stacks import cpu_percent, draw_stacks, memory_parts

ROWS = {"alone": {"web": 100.0}, "both": {"web": 75.0, "batch": 25.0}}


def test_parts_stand_end_to_end():
    """A part that starts at zero would hide the one before it."""
    (axes,) = draw_stacks(ROWS, unit="% of the CPU").figure.axes
    starts = {bar.get_label(): [part.get_x() for part in bar] for bar in axes.containers}

    assert {"web": [0, 0], "batch": [100, 75]} == starts


def test_part_has_the_colour_that_is_asked_for():
    """What has failed is red, wherever it comes in the list."""
    (axes,) = draw_stacks({"both": {"v1": 9.0, "failed": 1.0}}, unit="%", colours={"failed": RED}).figure.axes
    colours = {bar.get_label(): to_hex(bar[0].get_facecolor()) for bar in axes.containers}

    assert {"v1": BLUE, "failed": RED} == colours


def test_words_give_the_numbers_and_the_limit():
    """They are all that a screen reader has."""
    expected = "Bars in MiB. alone: web 100; both: web 75, batch 25. The memory.max is 32."

    assert expected == draw_stacks(ROWS, unit="MiB", limit=32, limit_name="memory.max").alt


def test_memory_parts_add_up_to_anon_and_file():
    """memory.stat counts shmem as file; drawn as it stands it would count twice."""
    stat = {"anon": 3 << 20, "file": 10 << 20, "shmem": 4 << 20, "slab": 1}
    group = SimpleNamespace(memory_stat=lambda: stat)

    assert {"anon": 3, "file cache": 6, "shmem": 4} == memory_parts(group)


def test_cpu_percent_measures_by_the_time_that_has_really_passed():
    """A sleep that lasts twice as long must not double anyone's share."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + 2 * seconds)
    group = SimpleNamespace(name="job", cpu_stat=lambda: SimpleNamespace(usage_usec=clock.now * 500_000))

    assert {"job": pytest.approx(50)} == cpu_percent(group, seconds=1, clock=clock)
