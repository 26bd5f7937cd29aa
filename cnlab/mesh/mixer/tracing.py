"""Spans by OTLP: sidecars report each request that passes, and a store keeps the last of them.

A sidecar makes a span, tells in a header whose child the next one is, and reports out of band, a few hundred
milliseconds after the fact (Envoy's own habit is five seconds; see `instance`).

See: OpenTelemetry protocol (OTLP) 1.x, ``trace_service.proto``; Envoy, "Tracing".
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from cnlab.mesh.mixer.traces import Span, Trace
from cnlab.mesh.pilot.resources import Json, extension

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
MAX_SPANS = 1000
"""A trace keeps so many spans; a loop of calls could grow one for ever."""
__all__ = ["Span", "Trace", "TraceStore", "read_spans", "tracer"]
_SPANS_FIELD = 2  # scope_spans, that older files call instrumentation_library_spans


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
