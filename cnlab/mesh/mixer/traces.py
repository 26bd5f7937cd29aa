"""Traces: what became of one request, put together from spans that each sidecar reported alone.

A span names its parent; together they make a tree. An application in the middle must copy the header that
tells whose child the next span is (``traceparent``) from the request it got to those it sends; nobody can do
that for it. Where it does not, the rest of the way is a trace of its own. All here is pure;
`cnlab.mesh.mixer.tracing` collects.

See: W3C Trace Context; OpenTelemetry protocol (OTLP) 1.x, ``trace.proto``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cnlab.errors import InvalidValue

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The header ``traceparent``: which trace a request belongs to, and whose child its span is."""

    trace_id: str
    parent_id: str
    is_sampled: bool = True

    @property
    def header(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.parent_id}-{int(self.is_sampled):02x}"


def parse_traceparent(value: str) -> TraceContext:
    """Read the header ``traceparent``; what later versions append is passed over, as the standard wants.

    Raises:
        InvalidValue: it is not valid; who gets such a header begins a new trace.
    """
    match = _TRACEPARENT.fullmatch(value.strip())
    if match is None:
        raise InvalidValue(f"traceparent {value!r}: not version-trace_id-parent_id-flags in small hex digits")
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more):
        raise InvalidValue(f"traceparent {value!r}: not as version {version} has it")
    if not int(trace_id, 16) or not int(parent_id, 16):
        raise InvalidValue(f"traceparent {value!r}: all zeros is no id")
    return TraceContext(trace_id, parent_id, bool(int(flags, 16) & _SAMPLED))


def trace_id_of(headers: Mapping[str, str]) -> str:
    """Return the trace that a request's headers name, W3C's or Zipkin's way; "" for none."""
    try:
        return parse_traceparent(headers.get("traceparent", "")).trace_id
    except InvalidValue:
        return headers.get("x-b3-traceid", "")


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work on the way of a request, as one sidecar saw it."""

    trace_id: str  # 32 hex digits
    span_id: str  # 16 hex digits
    parent_span_id: str  # "" for the first
    service: str
    name: str
    kind: str  # "server": a request came in; "client": it went out
    start_ns: int  # since the epoch
    end_ns: int
    is_error: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the critical path: all that time the whole request waited for this span's own work."""

    span: Span
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Trace:
    """Spans of one trace, earliest first, and the tree that they make."""

    trace_id: str
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Trace:
        """Put spans of one trace together; they come in any order."""
        ordered = sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))
        return cls(ordered[0].trace_id if ordered else "", tuple(ordered))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trace:
        """Read what `as_dict` made."""
        return cls.of([Span(**span) for span in data["spans"]])

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"trace_id": self.trace_id, "spans": [span.as_dict() for span in self.spans]}

    @cached_property
    def _children(self) -> dict[str, list[Span]]:
        children: dict[str, list[Span]] = {}
        for span in self.spans:
            children.setdefault(span.parent_span_id, []).append(span)
        return children

    @property
    def roots(self) -> tuple[Span, ...]:
        """Spans that have no parent; a whole trace has one."""
        return tuple(self._children.get("", ()))

    @property
    def orphans(self) -> tuple[Span, ...]:
        """Spans that name a parent which nobody has reported, or not yet."""
        known = {"", *(span.span_id for span in self.spans)}
        return tuple(span for span in self.spans if span.parent_span_id not in known)

    @property
    def is_broken(self) -> bool:
        """Whether the spans make more than one tree, or none."""
        return len(self.roots) + len(self.orphans) != 1 or bool(self.orphans)

    @property
    def services(self) -> tuple[str, ...]:
        """The services on the way, in the order of their first spans."""
        return tuple(dict.fromkeys(span.service for span in self.spans))

    @property
    def has_error(self) -> bool:
        """Whether a span of it failed."""
        return any(span.is_error for span in self.spans)

    @property
    def start_ns(self) -> int:
        """When it began."""
        return min((span.start_ns for span in self.spans), default=0)

    @property
    def duration_s(self) -> float:
        """From the first span's start to the last one's end."""
        return (max((span.end_ns for span in self.spans), default=0) - self.start_ns) / 1e9

    def children(self, span: Span) -> tuple[Span, ...]:
        """Return the spans whose parent it is, earliest first."""
        return tuple(self._children.get(span.span_id, ()))

    def walk(self) -> Iterator[tuple[int, Span]]:
        """Yield each span with its depth, parents before children; orphans stand at depth 0, as roots do."""
        waiting = [(0, span) for span in reversed((*self.roots, *self.orphans))]
        while waiting:
            depth, span = waiting.pop()
            yield depth, span
            waiting += [(depth + 1, child) for child in reversed(self.children(span))]

    def critical_path(self) -> list[Segment]:
        """Return what the request waited for, without a gap, from the first root's start to its end.

        Of children that ran at the same time only the one that ended last made the parent wait.
        """
        if not self.roots:
            return []
        root, segments = self.roots[0], list[Segment]()
        waiting = [(root, root.start_ns, root.end_ns, self._last_first(root))]
        while waiting:  # from the end to the start; a stack, for a chain of calls may be long
            span, since, until, children = waiting.pop()
            child = next((one for one in children if one.start_ns < until), None)
            if child is None or child.end_ns <= since:
                segments.append(Segment(span, since, until))
                continue
            begins, ends = max(child.start_ns, since), min(child.end_ns, until)
            segments.append(Segment(span, ends, until))
            waiting.append((span, since, begins, children))
            waiting.append((child, begins, ends, self._last_first(child)))
        return [segment for segment in reversed(segments) if segment.end_ns > segment.start_ns]

    def _last_first(self, span: Span) -> Iterator[Span]:
        return iter(sorted(self.children(span), key=lambda child: child.end_ns, reverse=True))
