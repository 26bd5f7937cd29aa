"""Send requests and write down what came of each: a load generator that never tries again.

Interface: ``load(url, rate=200, seconds=3)`` returns a `Load`; ``with loading(url) as running:`` sends in the
background for as long as the block, which reads ``running.so_far``.

An *open loop* (`rate`) sends when the clock says so, like users who do not know of each other; a request that
had to wait for its turn counts from when it was due. A *closed loop* (`concurrency`) has so many clients who
each wait for their answer first, so a slow server is asked less. Both run in a thread with an event loop.

See: "Open Versus Closed: A Cautionary Tale", NSDI 2006.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cnlab.errors import InvalidValue

if TYPE_CHECKING:
    import aiohttp
    import numpy as np
    from numpy.typing import NDArray

SERVED_BY, FLAGS = "x-served-by", "x-response-flags"
NO_ANSWER = 0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What came of a number of requests, in the order in which they ended."""

    ended_s: NDArray[np.float64]  # since the first was sent
    latencies_s: NDArray[np.float64]
    codes: NDArray[np.int64]  # status, NO_ANSWER where there was none
    servers: tuple[str, ...]  # the header x-served-by, "" where there was none
    served_by: Counter[str]
    flags: Counter[str]  # Envoy's response flags, if it tells them in a header
    failures: Counter[str]  # connect, reset, timeout, protocol
    seconds: float

    @property
    def requests(self) -> int:
        """How many have ended."""
        return len(self.codes)

    @property
    def statuses(self) -> Counter[int]:
        """How often each status came."""
        return Counter(code for code in self.codes.tolist() if code != NO_ANSWER)

    @property
    def successes(self) -> int:
        """How many were answered with a status below 400."""
        return int(((self.codes > NO_ANSWER) & (self.codes < 400)).sum())

    @property
    def success_rate(self) -> float:
        """Which share of the requests succeeded; 1 if there were none."""
        return self.successes / self.requests if self.requests else 1.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    def percentile_s(self, percent: float) -> float:
        """Return the time in which `percent` of a hundred answers had come; not a number if none had."""
        import numpy as np

        answered = self.latencies_s[self.codes != NO_ANSWER]
        return float(np.percentile(answered, percent)) if len(answered) else float("nan")

    def summary(self) -> str:
        """Say it in a few lines."""
        lines = [f"{self.requests} requests in {self.seconds:.1f} s, {self.rate:.0f} a second"]
        lines.append("answers: " + (_counted(self.statuses) or "none"))
        if self.failures:
            lines.append("no answer: " + _counted(self.failures))
        if self.flags:
            lines.append("flags: " + _counted(self.flags))
        if self.served_by:
            lines.append("served by: " + _counted(self.served_by))
        if self.statuses:
            times = (f"p{percent} {self.percentile_s(percent) * 1000:.1f} ms" for percent in (50, 90, 99))
            lines.append("latency: " + ", ".join(times))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def _counted(counter: Counter[Any]) -> str:
    return ", ".join(f"{number} x {name}" for name, number in sorted(counter.items()))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, how fast, and until when."""

    url: str
    rate: float | None = None
    concurrency: int | None = None
    seconds: float | None = None
    requests: int | None = None
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 10.0
    max_connections: int = 256

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.concurrency is None):
            raise InvalidValue("expected a rate (open loop) or a concurrency (closed loop), and not both")
        for name in ("rate", "concurrency", "seconds", "requests", "timeout_s", "max_connections"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidValue(f"{name} {value}: expected more than 0")


def load(
    url: str,
    *,
    rate: float | None = None,
    concurrency: int | None = None,
    seconds: float | None = None,
    requests: int | None = None,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
    max_connections: int = 256,
) -> Load:
    """Send requests for some `seconds`, or so many `requests`, and return when the last has ended.

    Args:
        url: where to.
        rate: requests a second, or
        concurrency: how many clients ask one after the other; 8 if neither is given.
        seconds: how long to send, or
        requests: how many; 3 seconds if neither is given.
        method: of HTTP.
        headers: sent with each, such as ``{"host": "reviews"}``.
        timeout_s: after which a request without an answer has failed.
        max_connections: how many requests may be under way.

    Raises:
        InvalidValue: a number below 0, or a rate and a concurrency.
    """
    if rate is None and concurrency is None:
        concurrency = 8
    if seconds is None and requests is None:
        seconds = 3.0
    plan = Plan(url, rate, concurrency, seconds, requests, method, headers or {}, timeout_s, max_connections)
    with Running(plan) as running:
        running.wait()
    return running.result


@contextlib.contextmanager
def loading(
    url: str,
    *,
    rate: float | None = None,
    concurrency: int | None = None,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
    max_connections: int = 256,
) -> Iterator[Running]:
    """Send requests for as long as the block; afterwards ``result`` has them all. See `load`."""
    if rate is None and concurrency is None:
        concurrency = 8
    plan = Plan(url, rate, concurrency, None, None, method, headers or {}, timeout_s, max_connections)
    with Running(plan) as running:
        yield running


class Running:
    """A load under way in a thread of its own; the end of the block ends it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._stop = threading.Event()
        self._records: list[tuple[float, float, int, str, str, str]] = []
        self._sent = 0
        self._started_s = self._ended_s = 0.0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Running:
        import aiohttp  # noqa: F401 - now, for it takes longer than a request should

        self._started_s = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Return when what was planned has been sent and has ended; it can be interrupted."""
        while self._thread.is_alive():
            self._thread.join(_LOOK_S)

    @property
    def so_far(self) -> Load:
        """What has ended by now."""
        return self._load((self._ended_s or time.perf_counter()) - self._started_s)

    @property
    def result(self) -> Load:
        """All that was sent, after the end of the block."""
        return self._load(self._ended_s - self._started_s)

    def _load(self, seconds: float) -> Load:
        import numpy as np

        records = self._records[:]
        ended, latencies, codes, servers, flags, failures = (
            zip(*records, strict=True) if records else [()] * 6
        )
        return Load(
            np.array(ended, dtype=np.float64),
            np.array(latencies, dtype=np.float64),
            np.array(codes, dtype=np.int64),
            tuple(servers),
            Counter(filter(None, servers)),
            Counter(flag for text in flags for flag in text.split(",") if flag not in ("", "-")),
            Counter(filter(None, failures)),
            seconds,
        )

    def _run(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as error:
            self._error = error
        self._ended_s = time.perf_counter()

    async def _send(self) -> None:
        async with _session(self.plan) as session:
            self._started_s = time.perf_counter()
            if self.plan.rate is not None:
                await self._open_loop(session, self.plan.rate)
            else:
                await asyncio.gather(*(self._client(session) for _ in range(self.plan.concurrency or 1)))

    async def _open_loop(self, session: aiohttp.ClientSession, rate: float) -> None:
        async with asyncio.TaskGroup() as group:
            while self._may_send():
                due = self._started_s + self._sent / rate
                early_s = due - time.perf_counter()
                if early_s > 0:
                    await asyncio.sleep(min(early_s, _LOOK_S))
                    continue
                self._sent += 1
                group.create_task(self._ask(session, due))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while self._may_send():
            self._sent += 1
            await self._ask(session, time.perf_counter())

    def _may_send(self) -> bool:
        plan = self.plan
        return not (
            self._stop.is_set()
            or (plan.requests is not None and self._sent >= plan.requests)
            or (plan.seconds is not None and time.perf_counter() - self._started_s >= plan.seconds)
        )

    async def _ask(self, session: aiohttp.ClientSession, due: float) -> None:
        import aiohttp

        code, server, flags, failure = NO_ANSWER, "", "", ""
        try:
            async with session.request(
                self.plan.method, self.plan.url, headers=self.plan.headers, allow_redirects=False
            ) as response:
                await response.read()
                code = response.status
                server, flags = response.headers.get(SERVED_BY, ""), response.headers.get(FLAGS, "")
        except (aiohttp.ClientError, TimeoutError) as error:
            failure = reason(error)
        now = time.perf_counter()
        self._records.append((now - self._started_s, now - due, code, server, flags, failure))


@contextlib.asynccontextmanager
async def _session(plan: Plan) -> AsyncIterator[aiohttp.ClientSession]:
    import aiohttp

    limit = plan.max_connections if plan.concurrency is None else plan.concurrency
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limit, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=plan.timeout_s),
        auto_decompress=False,
    ) as session:
        # aiohttp asks again by itself where a kept connection broke: then a lost request would not be seen
        session._retry_connection = False
        yield session


def reason(error: Exception) -> str:
    """Say in one word why there was no answer: timeout, connect, protocol or reset."""
    import aiohttp

    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connect"
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
        return "protocol"
    return "reset"
