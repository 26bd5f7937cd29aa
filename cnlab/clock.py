"""Time as an argument: code that waits is given a clock, so that its tests need not wait."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """What waiting needs to know of time, in seconds."""

    def monotonic(self) -> float:
        """Return a time that never goes backwards."""

    def sleep(self, seconds: float, /) -> None:
        """Let `seconds` pass."""


SYSTEM_CLOCK: Clock = time


def wait_until(
    condition: Callable[[], T],
    *,
    timeout_s: float,
    poll_s: float = 0.01,
    clock: Clock = SYSTEM_CLOCK,
    what: str = "the condition",
) -> T:
    """Call `condition` until its value is true, and return that value.

    It is called at least once, and a last time when the time is up.

    Raises:
        TimeoutError: `what` did not happen within `timeout_s`.
    """
    deadline = clock.monotonic() + timeout_s
    while True:
        is_last = clock.monotonic() >= deadline
        value = condition()
        if value:
            return value
        if is_last:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        clock.sleep(poll_s)
