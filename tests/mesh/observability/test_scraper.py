"""Our scraper: it asks, labels, keeps and answers; a target that is gone is seen to be gone."""

from __future__ import annotations

import threading
import time

import pytest
from mesh.exporter import exporter

from cnlab.errors import InvalidValue
from cnlab.mesh.observability.rules import errors_rate, requests_rate
from cnlab.mesh.observability.scraper import SIDECAR_PATH, Scraper, Target, scrape


@pytest.fixture
def sidecar():
    with exporter() as server:
        server.count(10, 0)
        yield server


def test_sample_gets_the_labels_of_its_target(sidecar):
    """A sidecar does not know beside whom it stands; whoever scrapes it does."""
    samples = scrape(sidecar.target(service="reviews", pod="reviews-v1-0"))

    assert [SIDECAR_PATH] == sidecar.paths
    address = sidecar.url.removeprefix("http://")
    assert {"service": "reviews", "pod": "reviews-v1-0", "job": "sidecars", "instance": address}.items() <= (
        samples[1].labels.items()
    )


def test_label_that_the_sample_had_is_kept_under_another_name(sidecar):
    """Prometheus does so; otherwise a target could pass for another."""
    sidecar.text = 'm{service="self-styled"} 1\n'

    _, sample = scrape(sidecar.target(service="reviews"))

    assert ("reviews", "self-styled") == (sample.labels["service"], sample.labels["exported_service"])


@pytest.mark.parametrize(("status", "text"), [(503, "m 1\n"), (200, "<html>no metrics</html>")])
def test_answer_that_is_no_exposition_counts_as_down(sidecar, status, text):
    """Zeros in place of missing numbers would look like a healthy, idle service."""
    sidecar.status, sidecar.text = status, text

    assert [("up", 0.0)] == [(sample.name, sample.value) for sample in scrape(sidecar.target())]


def test_target_that_does_not_answer_is_down():
    """The very first question of an alert: is the sidecar there?"""
    assert [0.0] == [sample.value for sample in scrape(Target("http://127.0.0.1:1/", {}), timeout_s=1)]


def test_rate_is_what_was_counted_between_two_scrapes(sidecar):
    """The scraper keeps counters as they are; only a query makes a rate of them."""
    with Scraper([sidecar.target(service="reviews")], interval_s=60) as scraper:
        sidecar.count(30, 5)
        scraper.scrape()

        (growth,) = scraper.query(requests_rate("1h").replace("rate(", "increase("))
        (errors,) = scraper.query(errors_rate("1h"))
    assert ({"service": "reviews"}, True) == (dict(growth.labels), growth.value >= 20)
    assert 0 < errors.value < growth.value


def test_scraper_asks_again_until_its_block_ends(sidecar):
    """It works beside the notebook, and leaves no thread behind."""
    with Scraper([sidecar.target()], interval_s=0.02) as scraper:
        scraper.wait(3)
    rounds = scraper.rounds

    assert rounds >= 4
    assert "scraper" not in [thread.name for thread in threading.enumerate()]
    assert rounds == scraper.rounds


def test_target_that_comes_later_is_asked_too(sidecar):
    """Instances come and go while the scraper runs."""
    with Scraper([], interval_s=60) as scraper:
        assert [] == scraper.query("up")
        scraper.update([sidecar.target(pod="new")])
        scraper.scrape()

        assert ["new"] == [sample.labels["pod"] for sample in scraper.query("up")]


def test_query_over_time_has_a_value_for_each_step(sidecar):
    """What a chart draws."""
    with Scraper([sidecar.target(pod="a")], interval_s=60) as scraper:
        start = time.time()

        (series,) = scraper.query_range("up", start=start, end=start + 1, step_s=0.25)

    assert ([1.0] * 5, "a") == (list(series.values), series.labels["pod"])


def test_query_that_is_not_understood_is_refused(sidecar):
    """Also by the method that readers use."""
    with Scraper([sidecar.target()], interval_s=60) as scraper, pytest.raises(InvalidValue, match="topk"):
        scraper.query("topk(1, up)")
