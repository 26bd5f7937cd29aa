"""Traces as trees: whole and broken ones, and what a request waited for."""

import json
import random

import pytest

from cnlab.errors import InvalidValue
from cnlab.mesh.mixer.traces import Span, Trace, TraceContext, parse_traceparent, trace_id_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def span(span_id, parent="", start=0, end=100, service="reviews", **words):
    """Return a span; times are in milliseconds."""
    return Span(
        words.pop("trace", TRACE), span_id, parent, service, span_id, "server",
        start * 1_000_000, end * 1_000_000, **words,
    )  # fmt: skip


def path(trace):
    """Return the critical path as (span, from, to) in milliseconds."""
    return [
        (one.span.span_id, one.start_ns // 1_000_000, one.end_ns // 1_000_000)
        for one in trace.critical_path()
    ]


BOOKINFO = Trace.of(
    [
        span("page", start=0, end=100),
        span("details", "page", 5, 25),
        span("reviews", "page", 30, 90),
        span("ratings", "reviews", 40, 80),
    ]
)


def test_traceparent_is_read_and_written():
    """The example of the standard, there and back."""
    header = f"00-{TRACE}-{PARENT}-01"

    assert TraceContext(TRACE, PARENT, is_sampled=True) == parse_traceparent(header)
    assert header == parse_traceparent(header).header
    assert not parse_traceparent(f"00-{TRACE}-{PARENT}-00").is_sampled


def test_traceparent_of_a_later_version_is_read_as_far_as_it_is_known():
    """The standard asks for it, so that old programs do not break new traces."""
    assert TRACE == parse_traceparent(f"cc-{TRACE}-{PARENT}-01-what-comes-later").trace_id


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-0x",
    ],
)
def test_traceparent_that_is_not_valid_is_refused(header):
    """Who gets it must begin a new trace and not join a wrong one."""
    with pytest.raises(InvalidValue, match="traceparent"):
        parse_traceparent(header)
    assert "" == trace_id_of({"traceparent": header})


def test_trace_is_known_by_zipkins_header_too():
    """Older applications propagate only that."""
    assert "463ac35c9f6413ad" == trace_id_of({"x-b3-traceid": "463ac35c9f6413ad"})


def test_spans_make_a_tree_in_whatever_order_they_come():
    """Each sidecar reports when it likes, children often before their parents."""
    spans = list(BOOKINFO.spans)
    random.Random(1).shuffle(spans)
    walked = [(depth, one.span_id) for depth, one in Trace.of(spans).walk()]

    assert [(0, "page"), (1, "details"), (1, "reviews"), (2, "ratings")] == walked
    assert not BOOKINFO.is_broken
    assert 0.1 == BOOKINFO.duration_s


def test_span_whose_parent_is_missing_is_an_orphan():
    """The trace is broken there: a report is lost, or still under way."""
    trace = Trace.of([span("page"), span("ratings", "reviews", 40, 80), span("stars", "ratings", 50, 60)])

    assert ["ratings"] == [one.span_id for one in trace.orphans]
    assert trace.is_broken
    assert [(0, "page"), (0, "ratings"), (1, "stars")] == [
        (depth, one.span_id) for depth, one in trace.walk()
    ]


def test_spans_in_a_ring_end():
    """A report may say anything, and drawing it must not take for ever."""
    ring = Trace.of([span("a", "b"), span("b", "a"), span("c", "c")])

    assert [] == list(ring.walk())
    assert [] == ring.critical_path()
    assert ring.is_broken


def test_trace_of_nothing_has_no_length():
    """Nothing has been reported yet."""
    empty = Trace.of([])

    assert (0.0, (), []) == (empty.duration_s, empty.roots, empty.critical_path())
    assert empty.is_broken


def test_critical_path_leads_through_what_was_waited_for():
    """It covers the request from its start to its end, each moment in one span."""
    expected = [
        ("page", 0, 5),
        ("details", 5, 25),
        ("page", 25, 30),
        ("reviews", 30, 40),
        ("ratings", 40, 80),
        ("reviews", 80, 90),
        ("page", 90, 100),
    ]

    assert expected == path(BOOKINFO)


def test_of_calls_at_the_same_time_the_last_one_to_end_counts():
    """To make the other faster would change nothing."""
    trace = Trace.of([span("page"), span("details", "page", 10, 60), span("reviews", "page", 20, 90)])

    assert [("page", 0, 10), ("details", 10, 20), ("reviews", 20, 90), ("page", 90, 100)] == path(trace)


def test_child_that_outlives_its_parent_is_cut_at_its_end():
    """A parent that ran into its timeout did not wait longer; clocks that differ look alike."""
    trace = Trace.of([span("page", start=10, end=50), span("reviews", "page", 0, 90)])

    assert [("reviews", 10, 50)] == path(trace)


def test_long_chain_of_calls_is_walked():
    """Deeper than Python's own stack goes."""
    chain = [span(f"s{n}", f"s{n - 1}" if n else "", n, 4000 - n) for n in range(1500)]
    trace = Trace.of(chain)

    assert 1499 == max(depth for depth, _ in trace.walk())
    assert 4_000_000_000 == sum(one.end_ns - one.start_ns for one in trace.critical_path())


def test_trace_survives_json():
    """It goes to the notebook over HTTP."""
    trace = Trace.of([span("page", is_error=True, attributes={"http.status_code": "500", "size": 7})])

    assert trace == Trace.from_dict(json.loads(json.dumps(trace.as_dict())))
    assert trace.has_error
