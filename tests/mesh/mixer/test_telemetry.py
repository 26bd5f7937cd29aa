"""Access logs that two real Envoys stream, out of band; and the golden signals made of them."""

import asyncio
import dataclasses
import json

import grpc
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2_grpc
from one_envoy import Services, ask, two_sidecars, upstream

from cnlab.clock import wait_until
from cnlab.mesh.mixer.telemetry import FLAGS, AccessLog, Record, edges, golden_signals, percentile
from cnlab.mesh.mixer.traces import parse_traceparent
from cnlab.mesh.mixer.tracing import TraceStore

NOON = 1_800_000_000.0
RECORD = Record(
    time=NOON,
    reporter="destination",
    instance="ratings-v1-0",
    source="reviews",
    destination="ratings",
    method="GET",
    path="/ratings/0",
    status=200,
    flags=(),
    duration_s=0.01,
    bytes_received=0,
    bytes_sent=10,
    attempts=1,
    upstream_cluster="inbound|9080||",
    upstream_address="127.0.0.1:9080",
    served_by="ratings-v1",
    trace_id="",
    request_id="",
    source_principal="",
    destination_principal="",
)


def record(**words):
    """Return a record that differs in these words from the usual one."""
    return dataclasses.replace(RECORD, **words)


def test_signals_of_a_service_are_those_that_its_callees_sidecar_saw():
    """Each request over one hop is told twice and must count once."""
    records = [record(), record(reporter="source"), record(destination="details")]

    assert {"details": 1, "ratings": 1} == {
        name: signals.requests for name, signals in golden_signals(records).items()
    }


def test_latency_is_the_percentile_that_a_request_had():
    """The nearest rank: a figure that somebody really waited for, and no average of two."""
    records = [record(duration_s=n / 1000) for n in range(100, 0, -1)]
    signals = golden_signals(records)["ratings"]

    assert (0.050, 0.095, 0.099) == (signals.p50_s, signals.p95_s, signals.p99_s)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 2), (0.51, 3), (0.75, 3), (0.99, 4), (1.0, 4)]
)
def test_percentile_is_the_nearest_rank(share, expected):
    """By the definition, at both ends too."""
    assert expected == percentile([1, 2, 3, 4], share)
    assert percentile([], share) is None


def test_errors_are_failures_of_the_service():
    """A 404 is the caller's mistake; no response at all is the service's."""
    statuses = [200, 301, 404, 429, 500, 503, 0]
    signals = golden_signals(record(status=status) for status in statuses)["ratings"]

    assert 3 == signals.errors
    assert 3 / 7 == signals.error_rate


def test_traffic_is_counted_in_the_time_given_or_found():
    """In a test of three seconds the window is three seconds, also if the last was silent."""
    records = [record(time=NOON + n / 10, duration_s=0.1) for n in range(20)]

    assert pytest.approx(10) == golden_signals(records)["ratings"].traffic_rps
    assert 1 == golden_signals(records[:1])["ratings"].traffic_rps
    assert 5 == golden_signals(records, window_s=4)["ratings"].traffic_rps


def test_saturation_comes_from_elsewhere():
    """A log of finished requests cannot know how many wait."""
    assert 7 == golden_signals([record()], saturation={"ratings": 7})["ratings"].saturation


def test_service_that_answers_nobody_is_saturated():
    """It has not finished a request, so the log knows nothing of the service that needs help most."""
    signals = golden_signals([], saturation={"ratings": 7, "details": 0})

    assert {"ratings": (0, 7)} == {name: (one.requests, one.saturation) for name, one in signals.items()}


def test_edges_are_those_that_callers_sidecars_saw():
    """A request that never arrived is an error of the edge, and known to its caller only."""
    records = [
        record(reporter="source"),
        record(reporter="source", status=503, flags=("UF",), request_id="b"),
        record(),
        record(source="unknown", request_id="c"),
    ]
    found = {(edge.source, edge.destination): (edge.requests, edge.errors) for edge in edges(records)}

    assert {("reviews", "ratings"): (2, 1), ("unknown", "ratings"): (1, 0)} == found


def test_without_mtls_a_caller_with_a_sidecar_is_still_known():
    """The callee's sidecar calls it unknown; the caller's own has told who it is, of the same request."""
    records = [
        record(reporter="source", request_id="a"),
        record(source="unknown", request_id="a"),
        record(source="unknown", request_id="a", destination="details"),
    ]

    assert [("reviews", "ratings", 1), ("unknown", "details", 1)] == [
        (edge.source, edge.destination, edge.requests) for edge in edges(records)
    ]


def test_nothing_reported_has_no_signals():
    """Before the first request there is nothing to draw, and nothing to divide by."""
    assert {} == golden_signals([])
    assert [] == edges([])


def test_record_survives_json():
    """It goes to the notebook over HTTP."""
    flagged = record(flags=("UF", "URX"))

    assert flagged == Record.from_dict(json.loads(json.dumps(flagged.as_dict())))


def test_log_is_bounded():
    """The oldest go; the count of all stays."""
    log = AccessLog(size=3)
    for number in range(5):
        log.add(record(time=NOON + number))

    assert [2, 3, 4] == [one.time - NOON for one in log.records()]
    assert [4] == [one.time - NOON for one in log.records(since=NOON + 4)]
    assert 5 == log.received


def test_all_flags_of_envoy_have_their_short_words():
    """An Envoy of next year has one more; then this list is told about it."""
    assert set(FLAGS) == {field.name for field in accesslog_pb2.ResponseFlags.DESCRIPTOR.fields}


class Mesh:
    """Two sidecars and what they have reported."""

    def __init__(self, log, outbound, inbound):
        self.log, self.outbound, self.inbound = log, outbound, inbound

    def reported(self, path, reporter):
        """Wait for the record of a request and return it."""

        def found():
            return [one for one in self.log.records() if (one.path, one.reporter) == (path, reporter)]

        return wait_until(found, timeout_s=30, what=f"a record of {path}")[0]


@pytest.fixture(scope="module")
def mesh():
    """Two sidecars that report to an access log."""
    log = AccessLog()
    with Services(log, TraceStore()) as services, upstream() as app, two_sidecars(app, services.port) as pair:
        yield Mesh(log, pair[0]("outbound"), pair[1]("inbound"))


def test_both_ends_report_a_request(mesh):
    """Who called whom, how it went, how long it took."""
    answer = ask(mesh.outbound, "/ratings/0", headers={"Host": "ratings"})
    source, destination = (mesh.reported("/ratings/0", reporter) for reporter in ("source", "destination"))

    assert ("reviews", "ratings", "reviews-v1-0") == (source.source, source.destination, source.instance)
    assert ("unknown", "ratings", "ratings-v1-0") == (
        destination.source,
        destination.destination,
        destination.instance,
    )
    assert ("GET", 200, (), 1, "echo-v1") == (
        source.method,
        source.status,
        source.flags,
        source.attempts,
        source.served_by,
    )
    assert ("outbound|9080||ratings", "app") == (source.upstream_cluster, destination.upstream_cluster)
    assert len(answer.body) == source.bytes_sent == destination.bytes_sent
    assert source.duration_s > destination.duration_s > 0
    assert source.time < destination.time


def test_record_leads_to_the_trace(mesh):
    """Logs with trace ids: from a line to the whole way of its request."""
    told = json.loads(ask(mesh.outbound, "/traced").body)
    source, destination = (mesh.reported("/traced", reporter) for reporter in ("source", "destination"))

    assert parse_traceparent(told["traceparent"]).trace_id == source.trace_id == destination.trace_id
    assert told["x-request-id"] == source.request_id == destination.request_id


def test_service_that_does_not_answer_is_reported_by_its_caller(mesh):
    """UF: no connection; URX: no attempt was left. The name is that of the service meant."""
    status = ask(mesh.outbound, "/shut").status
    reported = mesh.reported("/shut", "source")

    assert 503 == status == reported.status
    assert {"UF", "URX"} == set(reported.flags)
    assert ("details", 3) == (reported.destination, reported.attempts)


def test_fault_that_was_injected_is_told_from_a_real_one(mesh):
    """FI: the sidecar itself said no; the service was never asked."""
    answer = ask(mesh.outbound, "/faulty", headers={"Host": "ratings", "x-envoy-fault-abort-request": "503"})
    reported = mesh.reported("/faulty", "source")

    assert 503 == answer.status == reported.status
    assert (("FI",), "ratings", 0) == (reported.flags, reported.destination, reported.attempts)


def test_failure_of_the_service_has_no_flag(mesh):
    """It answered; that the answer was 500 is its own."""
    ask(mesh.outbound, "/status/500")
    reported = mesh.reported("/status/500", "destination")

    assert (500, ()) == (reported.status, reported.flags)
    assert reported.is_error


class Deaf(als_pb2_grpc.AccessLogServiceServicer):
    """Takes streams of reports and never reads one."""

    def __init__(self):
        self.streams = 0

    async def StreamAccessLogs(self, messages, context):  # noqa: N802
        self.streams += 1
        await asyncio.Event().wait()

    def add_to(self, server: grpc.aio.Server):
        als_pb2_grpc.add_AccessLogServiceServicer_to_server(self, server)


def test_requests_do_not_wait_for_reports():
    """Mixer was slow once, and nobody noticed: reports are out of band, only checks are in the way."""
    deaf = Deaf()
    with (
        Services(deaf, TraceStore()) as services,
        upstream() as app,
        two_sidecars(app, services.port) as pair,
    ):
        outbound = pair[0]("outbound")
        ask(outbound, "/")
        wait_until(lambda: deaf.streams, timeout_s=30, what="a stream of reports")
        statuses = {ask(outbound, "/" + "x" * 2000).status for _ in range(200)}

    assert {200} == statuses


def test_requests_do_not_need_anybody_who_takes_reports():
    """The control plane is killed: telemetry ends, traffic goes on."""
    with upstream() as app, two_sidecars(app, 1) as pair:
        statuses = {ask(pair[0]("outbound"), "/").status for _ in range(20)}

    assert {200} == statuses
