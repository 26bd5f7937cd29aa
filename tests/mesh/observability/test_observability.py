"""What a running mesh tells of itself: alike for every language, and to every collector."""

from __future__ import annotations

import http.client
import re
from urllib.parse import urlsplit

import pytest

from cnlab.apps import bookinfo
from cnlab.clock import wait_until
from cnlab.mesh import Mesh
from cnlab.mesh.observability import promtool
from cnlab.mesh.observability.exposition import check_openmetrics
from cnlab.mesh.observability.metrics import edges, golden_signals
from cnlab.mesh.observability.prometheus import Prometheus
from cnlab.mesh.observability.rules import edge_rate, golden_rules, requests_rate
from cnlab.mesh.observability.scraper import Scraper, scrape, targets_of

REQUESTS = 40


@pytest.fixture(scope="module")
def mesh():
    with Mesh(bookinfo(), tracing=False, access_log=False) as mesh:
        mesh.route("reviews", to="v3")
        yield mesh


@pytest.fixture(scope="module")
def scraped(mesh):
    """All samples before and after forty pages, when every Envoy has added up its histograms."""

    def scrape_all():
        return [sample for target in targets_of(mesh) for sample in scrape(target)]

    def is_added_up():
        signals = golden_signals(before, scrape_all(), 1)
        return len(signals) == 4 and all(one.p99_s is not None for one in signals.values())

    before = scrape_all()
    mesh.load(path="/productpage", requests=REQUESTS, concurrency=4)
    wait_until(is_added_up, timeout_s=30, poll_s=0.2, what="histograms")
    return before, scrape_all()


def get(mesh, path, **headers):
    connection = http.client.HTTPConnection(urlsplit(mesh.control_plane.url).netloc, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.getheader("Content-Type"), body


def test_every_part_of_the_mesh_is_a_target(mesh, scraped):
    """Six sidecars, the gateway, the control plane: whoever is not scraped is not seen."""
    _, after = scraped

    assert 8 == len(targets_of(mesh))
    assert [1.0] * 8 == [sample.value for sample in after if sample.name == "up"]


@pytest.mark.needs_programs("gcc", "node")
def test_services_in_three_languages_have_the_same_metrics(mesh, scraped):
    """The same program counts for all, so names, labels and buckets are the same."""
    _, after = scraped
    languages = {one.service: one.app.language for one in mesh.instances}
    assert {"Python", "JavaScript", "C"} == set(languages.values()), mesh.notes

    def shape(service):
        own = ("service", "pod", "version", "instance", "envoy_listener_address")
        return {
            (sample.name, *sorted(item for item in sample.labels.items() if item[0] not in own))
            for sample in after
            if sample.labels.get("service") == service and sample.name.startswith("envoy_http_downstream_rq")
            if sample.labels.get("envoy_http_conn_manager_prefix") == "inbound"
        }

    shapes = [shape(service) for service in ("productpage", "details", "ratings")]
    assert shapes[0] == shapes[1] == shapes[2] != set()


def test_signals_count_every_request_once(scraped):
    """Forty pages are forty requests to each service, however many proxies they pass."""
    signals = golden_signals(*scraped, 1)

    assert dict.fromkeys(("details", "productpage", "ratings", "reviews"), REQUESTS) == {
        service: one.requests for service, one in signals.items()
    }
    assert {0} == {one.errors for one in signals.values()}


def test_callers_and_called_agree(scraped):
    """What one sidecar sent is what the other received."""
    received = golden_signals(*scraped, 1)
    sent = {(edge.source, edge.destination): edge.requests for edge in edges(*scraped, 1)}

    assert set(sent) == {
        ("ingressgateway", "productpage"),
        ("productpage", "details"),
        ("productpage", "reviews"),
        ("reviews", "ratings"),
    }
    assert all(received[called].requests == count for (_, called), count in sent.items())


def test_control_plane_speaks_openmetrics_to_whoever_asks_for_it(mesh):
    """And Prometheus' older format to others, in which promtool finds nothing to complain about."""
    kind, text = get(mesh, "/metrics", Accept="application/openmetrics-text")
    older_kind, older = get(mesh, "/metrics")

    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert {"pilot_xds", "pilot_xds_pushes", "pilot_xds_acks"} <= set(check_openmetrics(text))
    assert older_kind.startswith("text/plain; version=0.0.4")
    assert "" == promtool.check_metrics(older)


def test_control_plane_counts_the_proxies_that_it_serves(mesh):
    """Seven Envoys, each connected once."""
    _, text = get(mesh, "/metrics")

    assert "7.0" == re.search(r"^pilot_xds (\S+)$", text, re.MULTILINE)[1]


def test_prometheus_and_our_scraper_see_the_same_mesh(mesh):
    """Metrics are portable across backends: same targets, same queries, same answers but for the moments."""
    targets = targets_of(mesh)
    with (
        Prometheus(targets, rules=golden_rules(), interval_s=0.5) as prometheus,
        Scraper(targets, interval_s=0.5) as scraper,
    ):
        prometheus.wait(1)
        mesh.load(path="/productpage", requests=REQUESTS)
        for backend in (scraper, prometheus):
            backend.wait(3)  # what lies around the scrapes is little then
        at = prometheus.query("timestamp(up)")[0].value

        for query in (requests_rate("1m"), edge_rate("1m")):
            theirs, ours = (
                {tuple(sorted(one.labels.items())): one.value for one in backend.query(query, at=at)}
                for backend in (prometheus, scraper)
            )
            busy = {labels for labels, value in theirs.items() if value}
            assert len(busy) == 4
            assert {labels: pytest.approx(theirs[labels], rel=0.4) for labels in busy} == {
                labels: ours[labels] for labels in busy
            }


def test_dead_control_plane_is_a_target_that_is_down(mesh):
    """The last test of this mesh: sidecars go on, and go on telling."""
    mesh.control_plane.kill()

    up = {target.job: scrape(target)[0].value for target in targets_of(mesh)}
    assert {"sidecars": 1.0, "control-plane": 0.0} == up
    assert 200 == mesh.get("/productpage").status
