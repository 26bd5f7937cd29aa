"""A real Prometheus, unprivileged: it scrapes what ours scrapes and says the same."""

from __future__ import annotations

import http.client
import tempfile
from pathlib import Path

import pytest
import yaml
from mesh.exporter import counted, exporter

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.mesh.errors import MeshError
from cnlab.mesh.observability import promtool
from cnlab.mesh.observability.prometheus import Prometheus, configuration, discovered
from cnlab.mesh.observability.rules import (
    errors_rate,
    golden_rules,
    in_flight,
    latency_quantile,
    requests_rate,
)
from cnlab.mesh.observability.scraper import Scraper, Target

WINDOW = "1m"
RATE = 'envoy_http_downstream_rq_xx{service="reviews",envoy_http_conn_manager_prefix="inbound"'


@pytest.fixture(scope="module")
def watched():
    """A sidecar whose app gets 600 requests while both scrape it: how long that takes does not matter."""
    with exporter() as sidecar:
        sidecar.text = counted(100, 10)
        targets = [sidecar.target(service="reviews", pod="reviews-v1-0", version="v1")]
        with (
            Prometheus(targets, rules=golden_rules(window=WINDOW), interval_s=1) as prometheus,
            Scraper(targets, interval_s=1) as scraper,
        ):
            prometheus.wait(1)
            sidecar.text = counted(700, 70)
            for backend in (prometheus, scraper):
                backend.wait(2)
            yield prometheus, scraper


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("up", 1),
        (latency_quantile(0.5, WINDOW), 5),
        (latency_quantile(0.99, WINDOW), 9.9),
        (in_flight(), 3),
        (f"{errors_rate(WINDOW)} / {requests_rate(WINDOW)} > 0.05", 0.1),
    ],
)
def test_both_backends_say_the_same(watched, query, value):
    """Metrics are portable: target, labels, query and answer do not depend on who collects them."""
    (theirs,), (ours,) = (backend.query(query) for backend in watched)

    assert (theirs.name, theirs.labels) == (ours.name, ours.labels)
    assert [pytest.approx(value)] * 2 == [theirs.value, ours.value]


@pytest.mark.parametrize(("query", "counted"), [(requests_rate(WINDOW), 600), (errors_rate(WINDOW), 60)])
def test_rates_of_both_backends_differ_by_what_lies_around_their_scrapes(watched, query, counted):
    """A rate goes on beyond the first and the last scrape, by half of the time between two at the most."""
    (theirs,), (ours,) = (backend.query(query) for backend in watched)

    assert (theirs.name, theirs.labels) == (ours.name, ours.labels)
    assert all(counted / 60 <= one.value <= 2 * counted / 60 for one in (theirs, ours))


def test_parameters_of_a_url_reach_envoy():
    """Prometheus drops an empty one: all of Envoy's statistics would come, several times as many."""
    (target,) = discovered([Target("http://127.0.0.1:15000/stats/prometheus?usedonly=1", {"pod": "a"})])

    assert {"pod": "a", "__metrics_path__": "/stats/prometheus", "__param_usedonly": "1"} == target["labels"]


def test_query_over_time_comes_back_as_series(watched):
    """What a chart draws."""
    prometheus, _ = watched
    (last,) = prometheus.query("timestamp(up)")

    (series,) = prometheus.query_range("up", start=last.value - 1, end=last.value, step_s=0.5)

    assert ("up", "reviews-v1-0") == (series.name, series.labels["pod"])
    assert [1.0] * len(series.times) == list(series.values)


def test_recorded_rule_can_be_asked_for(watched):
    """Rules are evaluated by the server, with the names that dashboards use."""
    prometheus, _ = watched
    wait_until(lambda: prometheus.query("service:in_flight:sum"), timeout_s=30, what="a recorded sample")

    (sample,) = prometheus.query("service:in_flight:sum")
    assert ({"service": "reviews"}, 3.0) == (dict(sample.labels), sample.value)


def test_query_that_is_no_promql_comes_back_with_prometheus_words(watched):
    """The reader learns where the mistake is."""
    prometheus, _ = watched

    with pytest.raises(InvalidValue, match="unclosed left parenthesis"):
        prometheus.query("sum(")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/v1/admin/tsdb/snapshot"), ("POST", "/-/reload"), ("POST", "/-/quit")]
)
def test_nobody_can_change_it_over_http(watched, method, path):
    """Any user of the machine can reach a loopback address."""
    connection = http.client.HTTPConnection(watched[0].address, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    answer.read()
    connection.close()

    assert answer.status >= 400


@pytest.mark.as_student
def test_student_runs_it_and_nothing_is_left():
    """No root, no fixed port, no file and no process afterwards."""
    with Prometheus([], interval_s=1) as prometheus:
        directory, pid = prometheus.directory, prometheus.pid
        assert 0o700 == directory.stat().st_mode & 0o777
        assert prometheus.memory_bytes > 0
        assert [] == prometheus.query("up")

    assert not directory.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_alert_fires_while_errors_last_and_tells_who():
    """A page at night must name the service and how bad it is."""
    ok = RATE + ',envoy_response_code_class="2"}'
    bad = RATE + ',envoy_response_code_class="5"}'
    fired = {
        "exp_labels": {"service": "reviews", "severity": "page"},
        "exp_annotations": {"summary": "reviews answers 20% of its requests with 5xx"},
    }
    tests = [
        {
            "interval": "1s",
            "input_series": [
                {"series": ok, "values": "0+8x60"},
                {"series": bad, "values": "0x20 2+2x20 42x20"},
            ],
            "alert_rule_test": [
                {"eval_time": "19s", "alertname": "TooManyErrors", "exp_alerts": []},
                {"eval_time": "35s", "alertname": "TooManyErrors", "exp_alerts": [fired]},
                {"eval_time": "55s", "alertname": "TooManyErrors", "exp_alerts": []},
            ],
        }
    ]

    assert "SUCCESS" in promtool.check_rules(golden_rules(), tests)


def test_promtool_accepts_the_configuration(tmp_path):
    """The file is what a person would write; the tool of the field reads it."""
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(golden_rules()))
    content = configuration(
        ["sidecars", "control-plane"],
        interval_s=0.5,
        targets_file=str(tmp_path / "targets-{job}.json"),
        rule_file=str(rules),
    )
    for job in ("sidecars", "control-plane"):
        (tmp_path / f"targets-{job}.json").write_text("[]")
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(content))

    assert "7 rules found" in promtool.check_config(file)


def test_rule_that_cannot_be_read_stops_it_before_it_starts():
    """With promtool's words, and without a directory left behind."""
    rules = {"groups": [{"name": "g", "rules": [{"record": "a:b:c", "expr": "sum("}]}]}
    before = set(Path(tempfile.gettempdir()).glob("cnlab-prometheus-*"))

    with pytest.raises(MeshError, match="unclosed left parenthesis"), Prometheus([], rules=rules):
        pass

    assert before >= set(Path(tempfile.gettempdir()).glob("cnlab-prometheus-*"))
