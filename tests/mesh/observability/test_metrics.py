"""Expositions read, and signals made of them; Envoy's own text is among the data."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from cnlab.errors import InvalidValue
from cnlab.mesh.observability import promtool
from cnlab.mesh.observability.exposition import ControlPlaneMetrics, check_openmetrics
from cnlab.mesh.observability.metrics import (
    Sample,
    cluster_parts,
    edges,
    golden_signals,
    parse_exposition,
    quantile,
)

ENVOYS = (Path(__file__).parents[1] / "data" / "envoy-stats.txt").read_text()


def told(samples):
    """What samples say; the library calls every counter ``…_total``, whatever the proxy called it."""
    return sorted(
        (one.name.removesuffix("_total"), sorted(one.labels.items()), float(one.value)) for one in samples
    )


def samples_of(families):
    return [sample for family in families for sample in family.samples]


def inbound(code_class, count, *, service="reviews"):
    labels = {
        "service": service,
        "envoy_http_conn_manager_prefix": "inbound",
        "envoy_response_code_class": code_class,
    }
    return Sample("envoy_http_downstream_rq_xx", labels, count)


def test_parser_of_the_field_reads_the_same_from_envoys_text():
    """Ours is twenty lines; the judge is the library that Prometheus' users take."""
    assert told(samples_of(prometheus(ENVOYS))) == told(parse_exposition(ENVOYS))


def test_parser_of_the_field_reads_the_same_from_openmetrics():
    """The control plane speaks OpenMetrics: units, exemplars and an end that says so."""
    metrics = ControlPlaneMetrics()
    metrics.pushed("CDS")
    metrics.converged(0.02)
    text, _ = metrics.exposition()

    assert told(samples_of(openmetrics(text))) == told(parse_exposition(text))


def test_label_values_may_hold_quotes_braces_and_new_lines():
    """A cluster's name is free text; whoever splits at braces or commas reads nonsense."""
    (sample,) = parse_exposition('m{a="}, b=\\"x\\"\\n",c="\\\\"} 1 1700000000000')

    assert Sample("m", {"a": '}, b="x"\n', "c": "\\"}, 1.0) == sample


@pytest.mark.parametrize("line", ["{}", 'm{a="b" 1', "m", "m{} one"])
def test_line_that_is_no_sample_is_shown(line):
    """A proxy's error page in place of metrics must not count as zero samples."""
    with pytest.raises(InvalidValue, match="line 2 of the exposition"):
        parse_exposition(f"# HELP m\n{line}")


def test_errors_are_the_answers_of_class_5():
    """4xx is the caller's fault, and no sign of a sick service."""
    before = [inbound("2", 100), inbound("5", 10)]
    after = [inbound("2", 190), inbound("4", 5), inbound("5", 15)]

    signals = golden_signals(before, after, seconds=10)["reviews"]

    assert (100, 10.0, 5, 0.05) == (
        signals.requests,
        signals.traffic_rps,
        signals.errors,
        signals.error_rate,
    )


def test_signals_of_a_service_are_those_of_all_its_sidecars():
    """Three instances of a service are one service to whoever calls it."""
    one = inbound("2", 10)

    signals = golden_signals([], [one, one, one], seconds=1)

    assert {"reviews": 30} == {name: one.requests for name, one in signals.items()}


def test_edge_has_caller_from_the_scrape_and_called_from_the_cluster():
    """The caller's sidecar says whom it called: the only place that knows both."""
    samples = [
        Sample(one.name, {**one.labels, "service": "productpage"}, one.value)
        for one in parse_exposition(ENVOYS)
    ]
    (edge,) = edges([], samples, seconds=1)

    assert ("productpage", "reviews", 21, 1) == (edge.source, edge.destination, edge.requests, edge.errors)


def test_name_of_an_outbound_cluster_tells_service_and_version():
    """The pattern is Istio's; a cluster of another kind is nobody's edge."""
    names = ["outbound|9080|v1|reviews", "outbound|9080||ratings", "inbound|9080||", "xds-grpc"]

    assert [("reviews", "v1"), ("ratings", ""), None, None] == [cluster_parts(name) for name in names]


def test_quantile_lies_within_its_bucket():
    """A histogram knows no more than its bounds; between two of them a straight line is drawn."""
    buckets = [(0.001, 50), (0.005, 90), (0.01, 100), (float("inf"), 100)]

    assert (0.001, 0.005, 0.0075) == tuple(quantile(q, buckets) for q in (0.5, 0.9, 0.95))


def test_quantile_beyond_the_last_bound_is_that_bound():
    """Nobody knows how slow the slowest were; what is certain is the last bound."""
    assert 0.01 == quantile(0.99, [(0.01, 1), (float("inf"), 10)])
    assert quantile(0.99, [(0.01, 0), (float("inf"), 0)]) is None


def test_control_plane_speaks_openmetrics():
    """Prometheus asks for it, and refuses what breaks its rules."""
    metrics = ControlPlaneMetrics()
    metrics.connected(7)
    metrics.rejected("RDS")
    metrics.checked(is_allowed=False)
    text, content_type = metrics.exposition("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert {"pilot_xds", "pilot_total_xds_rejects", "mixer_checks"} <= set(check_openmetrics(text))


def test_promtool_finds_nothing_bad_in_the_older_format():
    """Who does not ask for OpenMetrics gets Prometheus' text format, and promtool judges its names."""
    metrics = ControlPlaneMetrics()
    metrics.pushed("EDS")
    metrics.acked("EDS")
    text, content_type = metrics.exposition("*/*")

    assert content_type.startswith("text/plain; version=0.0.4")
    assert "" == promtool.check_metrics(text)


def test_text_that_is_not_openmetrics_is_refused():
    """The judge itself must be able to say no: the end mark is missing."""
    with pytest.raises(InvalidValue, match="not OpenMetrics"):
        check_openmetrics("# TYPE a counter\na_total 1\n")
