"""Spans that two real Envoys report by OTLP, and the store that keeps them."""

import json

import pytest
from one_envoy import Services, ask, two_sidecars, upstream

from cnlab.clock import wait_until
from cnlab.mesh.mixer import tracing
from cnlab.mesh.mixer.traces import Span, parse_traceparent
from cnlab.mesh.mixer.tracing import TraceStore

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def span(span_id, trace=TRACE):
    """Return a span."""
    return Span(trace, span_id, "", "reviews", "egress", "client", 0, 100)


def test_store_forgets_the_oldest_trace():
    """It has a size; what is asked for is mostly what just happened."""
    store = TraceStore(size=3)
    for name, number in (("a", 1), ("a", 2), ("b", 1), ("b", 1), ("b", 2)):
        store.add(span(f"s{number}", trace=name * 32))

    assert ["b" * 32] == [trace.trace_id for trace in store.traces()]
    assert "a" * 32 not in store
    assert (1, 5) == (len(store), store.received)


def test_store_keeps_a_limited_number_of_spans_of_a_trace(monkeypatch):
    """Two services that call each other in a circle make one endless trace."""
    monkeypatch.setattr(tracing, "MAX_SPANS", 10)
    store = TraceStore()
    for number in range(100):
        store.add(span(f"s{number}"))

    assert 10 == len(store[TRACE].spans)


@pytest.fixture(scope="module")
def mesh():
    """Two sidecars that report to a store."""
    store = TraceStore()
    with Services(store) as services, upstream() as app, two_sidecars(app, services.port) as sidecars:
        yield store, *(one(name) for one, name in zip(sidecars, ("outbound", "inbound"), strict=True))


def whole(store, trace_id, spans):
    """Wait until so many spans of a trace have been reported."""
    wait_until(lambda: trace_id in store and len(store[trace_id].spans) >= spans, timeout_s=30, what="spans")
    return store[trace_id]


def test_sidecars_report_one_trace_of_a_request(mesh):
    """The caller's sidecar makes the client's span, the callee's sidecar its child."""
    store, outbound, _ = mesh
    told = json.loads(ask(outbound, "/ratings/0").body)["traceparent"]
    trace = whole(store, parse_traceparent(told).trace_id, 2)
    found = [(depth, one.service, one.kind) for depth, one in trace.walk()]

    assert [(0, "reviews", "client"), (1, "ratings", "server")] == found
    assert not trace.is_broken
    assert trace.spans[-1].span_id == parse_traceparent(told).parent_id
    assert all(one.end_ns > one.start_ns for one in trace.spans)


def test_trace_of_the_caller_is_gone_on_with(mesh):
    """That is all a mesh asks of an application: to copy the header."""
    store, outbound, _ = mesh
    ask(outbound, "/ratings/1", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    trace = whole(store, TRACE, 2)

    assert [PARENT] == [one.parent_span_id for one in trace.orphans], "the caller itself has reported nothing"


def test_application_that_drops_the_header_breaks_the_trace(mesh):
    """What it calls begins a trace of its own, and nobody sees that both were one request."""
    store, outbound, inbound = mesh
    got = json.loads(ask(inbound, "/").body)
    sent = json.loads(ask(outbound, "/", headers={"x-request-id": got["x-request-id"]}).body)
    first, second = (parse_traceparent(headers["traceparent"]).trace_id for headers in (got, sent))

    assert first != second
    assert ["ratings"] == [one.service for one in whole(store, first, 1).spans]
    assert ["reviews"] == [one.service for one in whole(store, second, 2).roots]


def test_span_of_a_failed_request_says_so(mesh):
    """Of a thousand traces somebody looks for those that failed."""
    store, outbound, _ = mesh
    told = json.loads(ask(outbound, "/status/503").body)["traceparent"]
    trace = whole(store, parse_traceparent(told).trace_id, 2)

    assert trace.has_error
    assert "503" == trace.spans[0].attributes["http.status_code"]


def test_request_that_is_not_sampled_is_not_reported(mesh):
    """The caller has decided; all on the way keep to it."""
    store, outbound, _ = mesh
    before = store.received
    told = json.loads(ask(outbound, "/", headers={"traceparent": f"00-{'ab' * 16}-{PARENT}-00"}).body)
    marker = json.loads(ask(outbound, "/").body)["traceparent"]
    whole(store, parse_traceparent(marker).trace_id, 2)

    assert "ab" * 16 not in store
    assert before + 2 == store.received
    assert not parse_traceparent(told["traceparent"]).is_sampled
