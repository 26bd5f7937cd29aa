"""Reports out of band (Mixer's second half): what each sidecar has seen, sent after the fact.

Sidecars write an access log and stream it to us by gRPC. No request waits for it: where we are slow or gone,
Envoy holds a little back and then drops reports, never requests. One request over one hop is told twice, by
the caller's sidecar (``reporter`` "source") and by the callee's ("destination"); Istio's metrics make the
same difference. What never arrived is known to the source alone.

See: Envoy, "Access logging" and ``envoy.service.accesslog.v3``; "Response flags" in its command operators.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from cnlab.mesh.auth.identity import service_of
from cnlab.mesh.mixer.traces import trace_id_of
from cnlab.mesh.observability.metrics import Edge, Signals, cluster_parts
from cnlab.mesh.pilot.resources import Json, extension

SOURCE, DESTINATION = "source", "destination"
UNKNOWN = "unknown"
"""A caller without identity, as Istio calls it."""
FLAGS = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",  # codespell:ignore
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}
"""Envoy's short words for why a response is what it is, by the field that says so."""
_REQUEST_HEADERS = ("traceparent", "x-b3-traceid")
_RESPONSE_HEADERS = ("x-served-by",)


@dataclass(frozen=True, slots=True)
class Record:
    """One request over one hop, as the sidecar of one end saw it."""

    time: float  # seconds since the epoch, when it began
    reporter: str  # which end tells: "source" or "destination"
    instance: str  # whose sidecar
    source: str  # services; "unknown" for a caller without identity
    destination: str
    method: str
    path: str
    status: int  # 0 for no response
    flags: tuple[str, ...]  # Envoy's: ("UO",), ("UF", "URX")
    duration_s: float
    bytes_received: int  # bodies, of the request
    bytes_sent: int  # and of the response
    attempts: int  # requests sent upstream, with retries; 0 where Envoy answered itself
    upstream_cluster: str
    upstream_address: str
    served_by: str  # header x-served-by
    trace_id: str
    request_id: str
    source_principal: str  # SPIFFE IDs, from the callee's sidecar; "" without mTLS
    destination_principal: str

    @property
    def is_error(self) -> bool:
        """Whether the service failed: 5xx, or no response. A caller's mistake (4xx) is none."""
        return self.status >= 500 or self.status == 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data; `dataclasses.asdict` takes several times as long, and there are many."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Read what `as_dict` made, also after JSON."""
        return cls(**{**data, "flags": tuple(data["flags"])})


class AccessLog(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]
    """Takes the reports of all sidecars and keeps the last ones."""

    def __init__(self, *, size: int = 20_000) -> None:
        """Keep `size` records; the oldest go first."""
        self._records: deque[Record] = deque(maxlen=size)
        self.received = 0  # in all, also those that have gone

    def records(self, since: float = 0.0) -> list[Record]:
        """Return the records of requests that began at `since` (seconds since the epoch) or later."""
        return [record for record in self._records if record.time >= since]

    def add(self, record: Record) -> None:
        """Take a record."""
        self.received += 1
        self._records.append(record)

    async def StreamAccessLogs(  # noqa: N802 - the service's word
        self, messages: AsyncIterator[als_pb2.StreamAccessLogsMessage], context: grpc.aio.ServicerContext
    ) -> als_pb2.StreamAccessLogsResponse:
        """Read one sidecar's stream until it ends; only its first message says whose it is."""
        node, reporter = base_pb2.Node(), UNKNOWN
        async for message in messages:
            if message.HasField("identifier"):
                node, reporter = message.identifier.node, message.identifier.log_name
            for entry in message.http_logs.log_entry:
                self.add(read_entry(entry, node, reporter))
        return als_pb2.StreamAccessLogsResponse()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve access logs on this server."""
        als_pb2_grpc.add_AccessLogServiceServicer_to_server(self, server)


def read_entry(entry: accesslog_pb2.HTTPAccessLogEntry, node: base_pb2.Node, reporter: str) -> Record:
    """Turn an entry of Envoy's log into a record."""
    common, request, response = entry.common_properties, entry.request, entry.response
    peer, own = _principals(common.tls_properties)
    is_source = reporter == SOURCE
    called = cluster_parts(common.upstream_cluster)
    address = common.upstream_remote_address.socket_address
    return Record(
        time=common.start_time.ToNanoseconds() / 1e9,
        reporter=reporter,
        instance=node.id,
        source=node.cluster if is_source else service_of(peer) or UNKNOWN,
        destination=_destination(called, request.authority) if is_source else node.cluster,
        method=base_pb2.RequestMethod.Name(request.request_method).removeprefix("METHOD_UNSPECIFIED"),
        path=request.original_path or request.path,
        status=response.response_code.value,
        flags=tuple(FLAGS.get(flag.name, flag.name) for flag, _ in common.response_flags.ListFields()),
        duration_s=_duration_s(common),
        bytes_received=request.request_body_bytes,
        bytes_sent=response.response_body_bytes,
        attempts=common.upstream_request_attempt_count,
        upstream_cluster=common.upstream_cluster,
        upstream_address=f"{address.address}:{address.port_value}" if address.address else "",
        served_by=response.response_headers.get("x-served-by", ""),
        trace_id=trace_id_of(request.request_headers),
        request_id=request.request_id,
        source_principal="" if is_source else peer,
        destination_principal="" if is_source else own,
    )


def golden_signals(
    records: Iterable[Record],
    *,
    window_s: float | None = None,
    saturation: Mapping[str, int] | None = None,
) -> dict[str, Signals]:
    """Return latency, traffic, errors and saturation of each service, as the callees' sidecars saw them.

    Args:
        records: of the stretch of time in question; those of callers' sidecars are passed over.
        window_s: its length; else from the first record to the last, a second at least.
        saturation: requests in flight by service, which no log of finished requests knows.
    """
    by_service: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.reporter == DESTINATION:
            by_service[record.destination].append(record)
    window_s = window_s or _extent_s(record for group in by_service.values() for record in group)
    in_flight = saturation or {}
    busy = {service for service, requests in in_flight.items() if requests}  # some have answered nothing yet
    return {
        service: _signals(by_service[service], window_s, in_flight.get(service, 0))
        for service in sorted(by_service.keys() | busy)
    }


def edges(records: Iterable[Record], *, window_s: float | None = None) -> list[Edge]:
    """Return the same for each pair of caller and called, as the callers' sidecars saw it.

    Callers without a sidecar are "unknown"; of them only the callee's sidecar can tell. Without mTLS it knows
    nobody by name, so there its word counts only where no caller's sidecar has told of the same request.
    """
    records = list(records)
    told = {(one.request_id, one.destination) for one in records if one.reporter == SOURCE}
    by_edge: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
    for one in records:
        is_alone = one.source == UNKNOWN and (one.request_id, one.destination) not in told
        if one.reporter == SOURCE or is_alone:
            by_edge[one.source, one.destination].append(one)
    window_s = window_s or _extent_s(record for group in by_edge.values() for record in group)
    return [Edge(*edge, _signals(group, window_s, 0)) for edge, group in sorted(by_edge.items())]


def access_logger(cluster: str, *, reporter: str, flush: str = "0.2s") -> Json:
    """Return an entry of an HTTP connection manager's ``access_log``: stream to the server behind `cluster`.

    Args:
        cluster: the name of a cluster that speaks HTTP/2.
        reporter: "source" for what leaves a service, "destination" for what enters it.
        flush: how long Envoy gathers entries before it sends them.
    """
    return extension(
        "envoy.access_loggers.http_grpc",
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        common_config={
            "log_name": reporter,
            "transport_api_version": "V3",
            "buffer_flush_interval": flush,
            "grpc_service": {"envoy_grpc": {"cluster_name": cluster}},
        },
        additional_request_headers_to_log=list(_REQUEST_HEADERS),
        additional_response_headers_to_log=list(_RESPONSE_HEADERS),
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value that `share` of the ordered ones do not exceed (nearest rank); None without any."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _signals(records: Sequence[Record], window_s: float, in_flight: int) -> Signals:
    durations = sorted(record.duration_s for record in records)
    return Signals(
        requests=len(records),
        traffic_rps=len(records) / window_s if window_s else 0.0,
        errors=sum(record.is_error for record in records),
        p50_s=percentile(durations, 0.50),
        p95_s=percentile(durations, 0.95),
        p99_s=percentile(durations, 0.99),
        saturation=in_flight,
    )


def _extent_s(records: Iterable[Record]) -> float:
    times = [time for record in records for time in (record.time, record.time + record.duration_s)]
    return max(max(times) - min(times), 1.0) if times else 0.0


def _principals(tls: accesslog_pb2.TLSProperties) -> tuple[str, str]:
    """Return the peer's SPIFFE ID and our own, out of the connection on which the request came."""
    return _uri(tls.peer_certificate_properties), _uri(tls.local_certificate_properties)


def _uri(certificate: accesslog_pb2.TLSProperties.CertificateProperties) -> str:
    return next((name.uri for name in certificate.subject_alt_name if name.uri), "")


def _destination(called: tuple[str, str] | None, authority: str) -> str:
    """Return the service that a cluster's name names; where there was no cluster, whom the caller wanted."""
    return called[0] if called else authority.partition(":")[0] or UNKNOWN


def _duration_s(common: accesslog_pb2.AccessLogCommon) -> float:
    """Until the last byte went to the caller; or until the end, where none did."""
    sent = common.time_to_last_downstream_tx_byte
    duration = sent if common.HasField("time_to_last_downstream_tx_byte") else common.duration
    return float(duration.ToNanoseconds() / 1e9)
