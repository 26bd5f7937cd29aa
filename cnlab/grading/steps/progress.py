"""Show how far a long run is: a bar on a terminal, a line now and then in a log."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm

_EVERY_S = 10.0  # between two lines of a log
_TICK_S = 1.0  # of the clock beside a bar


@contextlib.contextmanager
def progress(total: int, unit: str, stream: TextIO | None = None) -> Iterator[Callable[[str], None]]:
    """Show progress with its rate and the time left; the block calls what it is given for each thing done."""
    out = stream or sys.stderr
    if not out.isatty():
        yield _Log(total, unit, out, time.monotonic)
        return
    with tqdm(total=total, unit=f" {unit}", file=out, dynamic_ncols=True, leave=False) as bar, _ticking(bar):

        def advance(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        yield advance


@contextlib.contextmanager
def _ticking(bar: "tqdm[object]") -> Iterator[None]:
    """Show the time as it goes by: where one submission takes minutes, a bar that stands still looks dead."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(_TICK_S):
            bar.refresh()

    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    try:
        yield
    finally:
        ended.set()
        clock.join()


class _Log:
    """Lines such as ``120 of 300 submissions, 8.1 a second, 22 s left``."""

    def __init__(self, total: int, unit: str, out: TextIO, clock: Callable[[], float]) -> None:
        self._total = total
        self._unit = unit
        self._out = out
        self._clock = clock
        self._done = 0
        self._start = self._last = clock()

    def __call__(self, name: str) -> None:
        self._done += 1
        now = self._clock()
        if now - self._last < _EVERY_S and self._done < self._total:
            return
        self._last = now
        rate = self._done / max(now - self._start, 1e-9)
        left = (self._total - self._done) / rate
        pace = f"{rate:.1f} a second" if rate >= 1 else f"{rate * 60:.1f} a minute"
        self._out.write(f"{self._done} of {self._total} {self._unit}, {pace}, {left:.0f} s left\n")
        self._out.flush()
