"""Traces: what became of one request, put together from spans that each sidecar reports alone.

Sidecars make a span for each request that passes, and tell in a header (``traceparent``) whose child the next
one is. An application in between must copy that header from the request it got to those it sends; nobody can
do that for it. Where it does not, the rest of the way is a trace of its own.

Spans come out of band by OTLP, a few hundred milliseconds after the fact (Envoy's own habit is five seconds;
see `bootstrap_runtime`), and stay in a store of limited size.

See: W3C Trace Context; OpenTelemetry protocol (OTLP) 1.x, ``trace.proto``; Envoy, "Tracing".
"""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from cnlab.errors import InvalidValue
from cnlab.mesh.resources import Json, extension

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
MAX_SPANS = 1000
"""A trace keeps so many spans; a loop of calls could grow one for ever."""
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01
_SPANS_FIELD = 2  # scope_spans, that older files call instrumentation_library_spans


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


class TraceStore:
    """The last traces that sidecars have reported."""

    def __init__(self, *, size: int = 20_000) -> None:
        """Keep `size` spans, of each trace `MAX_SPANS`; the oldest traces go first."""
        self._size, self._kept = size, 0
        self._spans: OrderedDict[str, dict[str, Span]] = OrderedDict()
        self.received = 0  # in all, also those that have gone

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, trace_id: str) -> Trace:
        return Trace.of(list(self._spans[trace_id].values()))

    def __contains__(self, trace_id: object) -> bool:
        return trace_id in self._spans

    def add(self, span: Span) -> None:
        """Take a span; one that was reported twice counts once."""
        self.received += 1
        spans = self._spans.setdefault(span.trace_id, {})
        if len(spans) < MAX_SPANS and span.span_id not in spans:
            spans[span.span_id] = span
            self._kept += 1
        while self._kept > self._size:
            self._kept -= len(self._spans.popitem(last=False)[1])

    def traces(self) -> list[Trace]:
        """Return all traces, oldest first."""
        return [self[trace_id] for trace_id in self._spans]

    async def Export(  # noqa: N802 - the service's word
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Take what a sidecar reports."""
        for span in read_spans(request):
            self.add(span)
        return trace_service_pb2.ExportTraceServiceResponse()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve OTLP on this server; the messages are at hand without the generated service."""
        export = grpc.unary_unary_rpc_method_handler(
            self.Export,
            request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
            response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(SERVICE, {"Export": export})
        server.add_generic_rpc_handlers((handler,))


def read_spans(request: trace_service_pb2.ExportTraceServiceRequest) -> list[Span]:
    """Return the spans in a report; the resource that they stand under says whose they are."""
    spans = []
    for resource_spans in request.resource_spans:
        service = str(_plain(resource_spans.resource.attributes).get("service.name", "unknown"))
        scopes = getattr(resource_spans, resource_spans.DESCRIPTOR.fields_by_number[_SPANS_FIELD].name)
        spans += [_read_span(span, service) for scope in scopes for span in scope.spans]
    return spans


def tracer(service: str, cluster: str, *, sampling: float = 100.0) -> Json:
    """Return an HTTP connection manager's ``tracing``: report spans to the server behind `cluster`.

    Args:
        service: whose spans these are.
        cluster: the name of a cluster that speaks HTTP/2.
        sampling: of so many requests in 100 that no caller has decided about.
    """
    reports_to = {"envoy_grpc": {"cluster_name": cluster}, "timeout": "1s"}
    return {
        "random_sampling": {"value": sampling},
        "provider": extension(
            "envoy.tracers.opentelemetry",
            "envoy.config.trace.v3.OpenTelemetryConfig",
            service_name=service,
            grpc_service=reports_to,
        ),
    }


def bootstrap_runtime(*, flush_interval_s: float = 0.2) -> Json:
    """Return a bootstrap's ``layered_runtime``: report spans soon, not after five of them or five seconds."""
    keys = {
        "tracing.opentelemetry.flush_interval_ms": round(flush_interval_s * 1000),
        "tracing.opentelemetry.min_flush_spans": 1,
    }
    return {"layers": [{"name": "tracing", "static_layer": keys}]}


def _read_span(span: trace_pb2.Span, service: str) -> Span:
    attributes = _plain(span.attributes)
    status = str(attributes.get("http.status_code", ""))
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        service=service,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR or status.startswith("5"),
        attributes=attributes,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    """Turn OTLP's attributes into plain values; lists and maps stay as text, the unknown is left out."""
    plain: dict[str, Any] = {}
    for attribute in attributes:
        kind = attribute.value.WhichOneof("value")
        value = getattr(attribute.value, kind) if kind else ""
        if value not in ("", "-"):
            key = sys.intern(attribute.key)  # there are few, and each span has most of them
            plain[key] = value if isinstance(value, (str, bool, int, float)) else str(value)
    return plain
