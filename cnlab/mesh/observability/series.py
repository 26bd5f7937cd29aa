"""Series of samples in memory, and the answers to queries about them: a very small Prometheus.

    store = Store(points=240)
    store.add(target, time, samples)
    evaluate(parse('rate(up[5s])'), store.series, at=time) -> list[Sample]

See: Prometheus, "Querying basics"; ``extrapolatedRate`` in its source, which `rate` follows.
"""

import itertools
import math
import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnlab.errors import InvalidValue
from cnlab.mesh.observability.metrics import Sample, quantile
from cnlab.mesh.observability.promql import Aggregation, Binary, Call, Number, Query, Selector

LOOKBACK_S = 300.0  # an older sample is not the present value
_AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": sum,
    "avg": lambda values: sum(values) / len(values),
    "min": min,
    "max": max,
    "count": len,
}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_Labels = frozenset[tuple[str, str]]
Find = Callable[[Selector], Iterable["Series"]]


@dataclass(frozen=True, slots=True)
class Series:
    """What one name with one set of labels was at different times; `times` rise, NaN stands for no sample."""

    name: str
    labels: Mapping[str, str]
    times: Sequence[float]
    values: Sequence[float]

    def last(self, at: float) -> float | None:
        """Return the latest value up to `at`; None if there is none, if it ended, or if it is too old."""
        for time, value in zip(reversed(self.times), reversed(self.values), strict=True):
            if time <= at:
                return None if math.isnan(value) or time <= at - LOOKBACK_S else value
        return None

    def window(self, start: float, end: float) -> list[tuple[float, float]]:
        """Return times and values after `start`, up to `end`."""
        pairs = zip(self.times, self.values, strict=True)
        return [(time, value) for time, value in pairs if start < time <= end and not math.isnan(value)]


class Store:
    """What was scraped, the last `points` times of each target.

    The times are kept once a target, and a series as an array of doubles: 8 bytes a sample.
    """

    def __init__(self, *, points: int = 240) -> None:
        self._points = points
        self._times: dict[str, array[float]] = {}
        self._values: dict[str, dict[tuple[str, _Labels], array[float]]] = {}

    def add(self, target: str, time: float, samples: Iterable[Sample]) -> None:
        """Add one scrape of a target; a series that is not in it has ended, until it comes again."""
        times = self._times.setdefault(target, array("d"))
        series = self._values.setdefault(target, {})
        times.append(time)
        for sample in samples:
            key = sample.name, frozenset(sample.labels.items())
            values = series.setdefault(key, array("d"))
            values.extend([math.nan] * (len(times) - 1 - len(values)))
            values.append(sample.value)
        for values in series.values():
            values.extend([math.nan] * (len(times) - len(values)))
        if len(times) > 2 * self._points:
            for numbers in (times, *series.values()):
                del numbers[: self._points]

    def find(self, selector: Selector) -> Iterator[Series]:
        """Return the series that a selector means."""
        for target, series in self._values.items():
            for (name, pairs), values in series.items():
                if selector.name in ("", name):
                    labels = dict(pairs)
                    if all(matcher.accepts({"__name__": name, **labels}) for matcher in selector.matchers):
                        yield Series(name, labels, self._times[target], values)


def evaluate(query: Query, find: Find, *, at: float) -> list[Sample]:
    """Return the vector that `query` means at the time `at`; a number is a sample without name and labels.

    Args:
        query: from `promql.parse`.
        find: yields the series of a selector, as `Store.find` does.
        at: seconds since the epoch.
    """
    match query:
        case Number(value):
            return [Sample("", {}, value)]
        case Selector():
            return _instant(query, find, at)
        case Call("histogram_quantile", (Number(q), of)):
            return _quantiles(q, evaluate(of, find, at=at))
        case Call(function, (Selector() as selector,)):
            seconds = selector.window_s if function == "rate" and selector.window_s else 1.0
            growths = ((series.labels, _growth(series, selector, at)) for series in find(selector))
            return [Sample("", labels, growth / seconds) for labels, growth in growths if growth is not None]
        case Aggregation(name, by, of):
            groups: dict[_Labels, list[float]] = {}
            for sample in evaluate(of, find, at=at):
                groups.setdefault(_only(sample.labels, by), []).append(sample.value)
            return [Sample("", dict(key), _AGGREGATIONS[name](values)) for key, values in groups.items()]
        case Binary(_, left, right):
            return list(_binary(query, evaluate(left, find, at=at), evaluate(right, find, at=at)))
    raise InvalidValue(f"{query} has no value")


def _only(labels: Mapping[str, str], names: Iterable[str]) -> _Labels:
    return frozenset((name, labels[name]) for name in names if labels.get(name))


def _instant(selector: Selector, find: Find, at: float) -> list[Sample]:
    if selector.window_s is not None:
        raise InvalidValue(f"{selector.name}[…] is no vector: put it into rate(…) or increase(…)")
    values = ((series, series.last(at)) for series in find(selector))
    return [Sample(series.name, series.labels, value) for series, value in values if value is not None]


def _growth(series: Series, selector: Selector, at: float) -> float | None:
    """Return by how much a counter grew in the window, extended to the window's ends.

    Scrapes do not meet the ends of the window. Prometheus extends the slope to an end that is nearer than 1.1
    scrape intervals, else by half an interval, and never to where the counter would have been below zero.
    """
    start = at - (selector.window_s or 0.0)
    pairs = series.window(start, at)
    if len(pairs) < 2:
        return None
    (first_time, first), (last_time, last) = pairs[0], pairs[-1]
    values = [value for _, value in pairs]
    restarts = sum(old for old, new in itertools.pairwise(values) if new < old)
    growth, measured = last - first + restarts, last_time - first_time
    interval = measured / (len(pairs) - 1)
    to_start, to_end = first_time - start, at - last_time
    to_start = to_start if to_start < 1.1 * interval else interval / 2
    to_end = to_end if to_end < 1.1 * interval else interval / 2
    if growth > 0 and first >= 0:
        to_start = min(to_start, measured * first / growth)
    return growth * (measured + to_start + to_end) / measured


def _quantiles(q: float, buckets: Iterable[Sample]) -> list[Sample]:
    histograms: dict[_Labels, list[tuple[float, float]]] = {}
    for bucket in buckets:
        if "le" in bucket.labels:
            rest = frozenset((name, value) for name, value in bucket.labels.items() if name != "le")
            histograms.setdefault(rest, []).append((float(bucket.labels["le"]), bucket.value))
    found = ((key, quantile(q, sorted(histogram))) for key, histogram in histograms.items())
    return [Sample("", dict(key), math.nan if value is None else value) for key, value in found]


def _binary(query: Binary, left: list[Sample], right: list[Sample]) -> Iterator[Sample]:
    """Combine samples whose labels are equal; a number goes with every sample."""
    for sample, first, second in _pairs(query, left, right):
        if query.sign in _ARITHMETIC:
            yield Sample("", sample.labels, _ARITHMETIC[query.sign](first, second))
        elif _COMPARISONS[query.sign](first, second):
            yield sample


def _pairs(query: Binary, left: list[Sample], right: list[Sample]) -> Iterator[tuple[Sample, float, float]]:
    if _is_number(query.right):
        yield from ((sample, sample.value, right[0].value) for sample in left)
    elif _is_number(query.left):
        yield from ((sample, left[0].value, sample.value) for sample in right)
    else:
        others = {frozenset(sample.labels.items()): sample.value for sample in right}
        for sample in left:
            other = others.get(frozenset(sample.labels.items()))
            if other is not None:
                yield sample, sample.value, other


def _is_number(query: Query) -> bool:
    both = isinstance(query, Binary) and _is_number(query.left) and _is_number(query.right)
    return isinstance(query, Number) or both


def _quotient(left: float, right: float) -> float:
    if right:
        return left / right
    return math.copysign(math.inf, left) if left else math.nan


_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _quotient,
}
