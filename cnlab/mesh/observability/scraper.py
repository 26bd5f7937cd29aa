"""Our own scraper: asks every target for its metrics again and again, and answers queries about them.

    with Scraper(targets_of(mesh)) as scraper:
        scraper.query('sum by (service) (rate(envoy_http_downstream_rq_total[5s]))')

`cnlab.mesh.observability.prometheus.Prometheus` takes the same targets and the same queries: metrics belong
to the proxies, not to who collects them.

See: Prometheus, "Jobs and instances" and "Configuration", scrape_config.
"""

import http.client
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, Self
from urllib.parse import urlencode, urlsplit

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.mesh.observability.metrics import Sample, parse_exposition
from cnlab.mesh.observability.promql import parse
from cnlab.mesh.observability.series import Series, Store, evaluate

WANTED = "(down|up)stream_(rq|cx)_|ejections|remaining_|memory"  # among some 1,400 lines of each Envoy
SIDECAR_PATH = f"/stats/prometheus?{urlencode({'usedonly': 1, 'filter': WANTED})}"
"""Where an Envoy tells what it counted: only what is more than zero, and of that only what is wanted."""
_TIMEOUT_S = 2.0
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Target:
    """Where metrics are to be had, and what we know of it: its labels are added to every sample."""

    url: str
    labels: Mapping[str, str]
    job: str = "sidecars"

    @property
    def address(self) -> str:
        """Host and port, which become the label ``instance``."""
        return urlsplit(self.url).netloc

    @property
    def all_labels(self) -> dict[str, str]:
        """The labels of its samples: its own, ``job`` and ``instance``."""
        return {**self.labels, "instance": self.address, "job": self.job}


class Backend(Protocol):
    """Who collects metrics and answers queries: our `Scraper`, or a `Prometheus`."""

    def query(self, text: str, *, at: float | None = None) -> list[Sample]:
        """Return the vector that `text` means now, or at the time `at`."""

    def query_range(self, text: str, *, start: float, end: float, step_s: float) -> list[Series]:
        """Return what `text` means at `start` and every `step_s` seconds until `end`."""


def targets_of(mesh: Any) -> list[Target]:
    """Return the targets of a `Mesh`: each sidecar, the ingress gateway, the control plane."""
    proxies = [
        (instance.address, {"pod": instance.name, "service": instance.service, "version": instance.version})
        for instance in mesh.instances
    ]
    gateway = {"pod": "ingressgateway", "service": "ingressgateway"}
    return [
        *(
            Target(f"http://{address}:{mesh.ports.metrics}{SIDECAR_PATH}", labels)
            for address, labels in [*proxies, (urlsplit(mesh.url).hostname, gateway)]
        ),
        Target(f"{mesh.control_plane.url}/metrics", {"service": "control-plane"}, job="control-plane"),
    ]


def scrape(target: Target, *, timeout_s: float = _TIMEOUT_S) -> list[Sample]:
    """Ask a target once and return its samples, with its labels and ``up``.

    A label that the sample has already is kept as ``exported_…``, as Prometheus does. A target that does not
    answer, or not with samples, gives ``up`` 0 and nothing else.
    """
    labels = target.all_labels
    try:
        samples = parse_exposition(_get(target.url, timeout_s))
    except (OSError, http.client.HTTPException, InvalidValue):
        return [Sample("up", labels, 0.0)]
    return [Sample("up", labels, 1.0), *(_labelled(sample, labels) for sample in samples)]


def _get(url: str, timeout_s: float) -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise InvalidValue(f"{url} answered {answer.status}")
    return text


def _labelled(sample: Sample, labels: Mapping[str, str]) -> Sample:
    own = {f"exported_{name}" if name in labels else name: value for name, value in sample.labels.items()}
    return Sample(sample.name, {**own, **labels}, sample.value)


class Scraper:
    """Asks `targets` every `interval_s` seconds until the end of the block; keeps `points` rounds."""

    def __init__(self, targets: Iterable[Target], *, interval_s: float = 0.5, points: int = 240) -> None:
        self.targets = list(targets)
        self.interval_s = interval_s
        self.rounds = 0
        self._store = Store(points=points)
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraper", daemon=True)

    def __enter__(self) -> Self:
        self.scrape()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop asking; what was collected can still be queried."""
        self._is_over.set()
        if self._thread.ident:
            self._thread.join()

    def update(self, targets: Iterable[Target]) -> None:
        """Ask these from now on: instances come and go."""
        self.targets = list(targets)

    def scrape(self) -> list[Sample]:
        """Ask all targets now, keep what they say and return it."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = list(zip(targets := self.targets, pool.map(scrape, targets), strict=True))
        now = time.time()
        with self._lock:
            for target, samples in answers:
                self._store.add(target.url, now, samples)
            self.rounds += 1
        return [sample for _, samples in answers for sample in samples]

    def wait(self, rounds: int = 2, *, timeout_s: float = 10.0) -> None:
        """Wait until every target has been asked `rounds` more times; a rate needs two."""
        goal = self.rounds + rounds
        wait_until(lambda: self.rounds >= goal, timeout_s=timeout_s, what=f"{rounds} rounds of scraping")

    def query(self, text: str, *, at: float | None = None) -> list[Sample]:
        """Return the vector that `text` means now, or at the time `at`.

        Raises:
            InvalidValue: it is not in the part of PromQL that `cnlab.mesh.observability.promql` reads.
        """
        query = parse(text)
        with self._lock:
            return evaluate(query, self._store.find, at=time.time() if at is None else at)

    def query_range(self, text: str, *, start: float, end: float, step_s: float) -> list[Series]:
        """Return what `text` means at `start` and every `step_s` seconds until `end`."""
        query = parse(text)
        found: dict[tuple[str, frozenset[tuple[str, str]]], tuple[list[float], list[float]]] = {}
        for number in range(int((end - start) / step_s + 1e-9) + 1):
            at = start + number * step_s
            with self._lock:
                samples = evaluate(query, self._store.find, at=at)
            for sample in samples:
                times, values = found.setdefault((sample.name, frozenset(sample.labels.items())), ([], []))
                times.append(at)
                values.append(sample.value)
        return [Series(name, dict(labels), *numbers) for (name, labels), numbers in found.items()]

    def _run(self) -> None:
        due = time.monotonic()
        while not self._is_over.wait(max(0.0, (due := due + self.interval_s) - time.monotonic())):
            self.scrape()
            due = max(due, time.monotonic() - self.interval_s)
