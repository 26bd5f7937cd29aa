"""What sidecars count, and the four golden signals made of it; the applications know nothing of either.

    samples = parse_exposition(text)          any exposition: Envoy's, Prometheus', OpenMetrics
    golden_signals(before, after, seconds)    latency, traffic, errors, saturation of each service
    edges(before, after, seconds)             the same for each pair of caller and called

All is pure: samples carry the labels that a scraper gave them (``service``: beside which service the sidecar
stands, ``pod``: beside which instance). A service is judged by what its sidecars receive (Envoy's
``envoy_http_downstream_*`` of the listener ``inbound``), an edge by what the caller's sidecar sends
(``envoy_cluster_upstream_*``). Istio says the same with ``istio_requests_total``, labelled
``reporter="destination"`` and ``reporter="source"``, from a filter that it adds to Envoy.

See: Prometheus, "Exposition formats"; OpenMetrics 1.0; Envoy, "HTTP connection manager" and "Cluster manager"
statistics; "The Four Golden Signals" in *Site Reliability Engineering*, chapter 6.
"""

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cnlab.errors import InvalidValue

INBOUND = "inbound"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPE = re.compile(r"\\(.)")
_UNESCAPED = {"n": "\n", '"': '"', "\\": "\\"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of an exposition: a name, labels, a number."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Signals:
    """The four golden signals over a stretch of time; latencies are None where nothing was answered."""

    requests: int
    traffic_rps: float
    errors: int  # answers of class 5xx, and none at all
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    saturation: int  # requests in flight at the end: received, not yet answered

    @property
    def error_rate(self) -> float:
        """Errors among the requests, 0 to 1."""
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Edge:
    """What one service called another for; `requests` and `errors` make it an edge of a service graph."""

    source: str
    destination: str
    signals: Signals

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return self.signals.requests

    @property
    def errors(self) -> int:
        """How many came back with 5xx, or not at all."""
        return self.signals.errors

    @property
    def p50_s(self) -> float | None:
        """The latency that half of the requests stayed under."""
        return self.signals.p50_s

    @property
    def p99_s(self) -> float | None:
        """The latency that 99 of 100 stayed under."""
        return self.signals.p99_s


def parse_exposition(text: str) -> list[Sample]:
    """Return the samples of an exposition; comments, types, timestamps and exemplars are passed over.

    Raises:
        InvalidValue: a line is not a sample; the message shows it.
    """
    lines = enumerate(text.splitlines(), start=1)
    return [_sample(line, number) for number, line in lines if line.strip() and not line.startswith("#")]


def _sample(line: str, number: int) -> Sample:
    name = _NAME.match(line)
    if name is None:
        raise InvalidValue(f"line {number} of the exposition is no sample: {line[:80]!r}")
    labels, position = {}, name.end()
    if line[position : position + 1] == "{":
        position += 1
        while found := _LABEL.match(line, position):
            labels[found[1]] = _ESCAPE.sub(lambda escape: _UNESCAPED.get(escape[1], escape[0]), found[2])
            position = found.end()
        if line[position : position + 1] != "}":
            raise InvalidValue(f"line {number} of the exposition has no '}}' after its labels: {line[:80]!r}")
        position += 1
    words = line[position:].split()
    try:
        return Sample(name[0], labels, float(words[0]))
    except (IndexError, ValueError):
        raise InvalidValue(f"line {number} of the exposition has no value: {line[:80]!r}") from None


def cluster_parts(cluster: str) -> tuple[str, str] | None:
    """Return service and version ("" for all) of an outbound cluster's name, else None.

    Istio's pattern: ``outbound|9080|v1|reviews``.
    """
    words = cluster.split("|")
    return (words[3], words[2]) if len(words) == 4 and words[0] == "outbound" else None


def golden_signals(before: Iterable[Sample], after: Iterable[Sample], seconds: float) -> dict[str, Signals]:
    """Return what each service received in the `seconds` between two scrapes, by its name."""

    def received(sample: Sample) -> str | None:
        is_inbound = sample.labels.get("envoy_http_conn_manager_prefix") == INBOUND
        return sample.labels.get("service") if is_inbound else None

    return _signals(before, after, seconds, received, "envoy_http_downstream_rq")


def edges(before: Iterable[Sample], after: Iterable[Sample], seconds: float) -> list[Edge]:
    """Return who called whom in the `seconds` between two scrapes, as the callers' sidecars saw it."""

    def sent(sample: Sample) -> tuple[str, str] | None:
        parts = cluster_parts(sample.labels.get("envoy_cluster_name", ""))
        return (sample.labels.get("service", ""), parts[0]) if parts else None

    found = _signals(before, after, seconds, sent, "envoy_cluster_upstream_rq")
    return [Edge(*names, signals) for names, signals in found.items() if signals.requests]


def quantile(q: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """Return the value below which the share `q` of a histogram's observations lies, or None if it is empty.

    Within the bucket it is found by a straight line, so the answer is as coarse as the buckets are.

    Args:
        q: 0 to 1.
        buckets: pairs of upper bound (the last is infinity) and the number of observations up to it.

    See: Prometheus, ``histogram_quantile()``.
    """
    total = buckets[-1][1] if buckets else 0
    if not total:
        return None
    rank, below, seen = q * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > seen:
            return below if math.isinf(bound) else below + (bound - below) * (rank - seen) / (count - seen)
        below, seen = bound, count
    return below


_Totals = dict[tuple[str, str], float]  # by name, and by the one label that matters: status class or bound
_Group = TypeVar("_Group", bound=Hashable)


def _signals(
    before: Iterable[Sample],
    after: Iterable[Sample],
    seconds: float,
    group_of: Callable[[Sample], _Group | None],
    prefix: str,
) -> dict[_Group, Signals]:
    """Group the samples of `prefix` by `group_of`, and make signals of what the counters gained."""
    old, new = _totals(before, group_of, prefix), _totals(after, group_of, prefix)
    return {group: _growth(old.get(group, {}), new[group], seconds, prefix) for group in sorted(new, key=str)}


def _totals(
    samples: Iterable[Sample], group_of: Callable[[Sample], _Group | None], prefix: str
) -> dict[_Group, _Totals]:
    totals: dict[_Group, _Totals] = {}
    for sample in samples:
        group = group_of(sample) if sample.name.startswith(prefix) else None
        if group is not None:
            detail = sample.labels.get("envoy_response_code_class") or sample.labels.get("le", "")
            found = totals.setdefault(group, {})
            found[sample.name, detail] = found.get((sample.name, detail), 0.0) + sample.value
    return totals


def _growth(old: _Totals, new: _Totals, seconds: float, prefix: str) -> Signals:
    gained = {key: value - old.get(key, 0.0) for key, value in new.items()}
    by_class = {detail: value for (name, detail), value in gained.items() if name == f"{prefix}_xx"}
    buckets = sorted(
        (float(bound) / 1000, value)
        for (name, bound), value in gained.items()
        if name == f"{prefix}_time_bucket"
    )
    requests = sum(by_class.values())
    return Signals(
        requests=round(requests),
        traffic_rps=requests / seconds,
        errors=round(by_class.get("5", 0)),
        p50_s=quantile(0.5, buckets),
        p95_s=quantile(0.95, buckets),
        p99_s=quantile(0.99, buckets),
        saturation=round(new.get((f"{prefix}_active", ""), 0)),
    )
