import pytest

from cnlab.clock import wait_until


class FakeClock:
    """A clock that stands still until somebody sleeps."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_value_of_the_condition_is_returned():
    """So that who waits for something also gets it."""
    values = iter([None, "", "here"])

    assert wait_until(lambda: next(values), timeout_s=10, clock=FakeClock()) == "here"


def test_condition_that_holds_is_not_waited_for():
    """No sleep, and no failure even without any time."""
    clock = FakeClock()

    assert wait_until(lambda: True, timeout_s=0, clock=clock)
    assert clock.now_s == 0


def test_what_did_not_happen_is_named():
    """Whoever reads the message was not there."""
    with pytest.raises(TimeoutError, match=r"waited 1\.5 s for the moon"):
        wait_until(lambda: False, timeout_s=1.5, clock=FakeClock(), what="the moon")


def test_condition_is_looked_at_when_the_time_is_up():
    """A machine that was asleep must not turn success into a timeout."""
    clock = FakeClock()

    assert wait_until(lambda: clock.now_s > 5, timeout_s=1, poll_s=10, clock=clock)


def test_error_of_the_condition_is_the_callers():
    """A condition that cannot be tested will not come true by waiting."""

    def fail() -> bool:
        raise KeyError("gone")

    with pytest.raises(KeyError):
        wait_until(fail, timeout_s=10, clock=FakeClock())
