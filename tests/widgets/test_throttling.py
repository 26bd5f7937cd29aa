"""Running and standing still, seen from inside a program."""

import pytest

from cnlab.errors import InvalidValue
from cnlab.widgets.throttling import STEPS_PER_LAP, Trace, draw_traces

STEP_S = 0.001


def trace_with_waits(*waits: tuple[int, float], steps: int = 100 * STEPS_PER_LAP) -> Trace:
    """A trace of equal steps, some of them longer by a wait."""
    longer, now, moments = dict(waits), 0.0, [0.0]
    for step in range(steps):
        now += STEP_S + longer.get(step, 0)
        moments.append(now)
    return Trace(tuple(moments))


def test_wait_is_a_step_that_took_far_too_long():
    """The program cannot see why it stood still, only that it did, and when."""
    ((start, length),) = trace_with_waits((5, 0.08)).waits()

    assert (0.005, 0.081) == (pytest.approx(start), pytest.approx(length))


def test_average_lap_hides_what_the_99th_percentile_shows():
    """Two waits of 80 ms in a hundred laps: the median does not move, the p99 does."""
    trace = trace_with_waits((5, 0.08), (500, 0.08))

    assert pytest.approx(STEPS_PER_LAP * STEP_S * 1000) == trace.percentile_ms(50)
    assert trace.percentile_ms(99) > 80


@pytest.mark.parametrize("percent", [0, 100])
def test_percentile_outside_of_the_hundred_is_refused(percent):
    """There is no lap that is slower than all."""
    with pytest.raises(InvalidValue, match="expected 1 to 99 of at least 2 laps"):
        trace_with_waits().percentile_ms(percent)


def test_trace_without_laps_has_no_percentile():
    """A program that never ran in its time says so instead of dividing by zero."""
    with pytest.raises(InvalidValue, match="of 0 laps"):
        Trace((0.0,)).percentile_ms(50)


def test_picture_names_each_trace_and_its_percentiles():
    """The words must carry the comparison that the picture makes."""
    alt = draw_traces(free=trace_with_waits(), limited=trace_with_waits((5, 0.08), (500, 0.08))).alt

    assert "free: half within 10.0 ms, 99 of 100 within 10.0 ms, stood still 0 times" in alt
    assert "limited: half within 10.0 ms, 99 of 100 within 90.0 ms, stood still 2 times" in alt
