"""The load generator: it sends what was asked, once, and loses nothing from sight."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from cnlab.apps import Deployment, bookinfo
from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.mesh.load import Load, load, loading


@pytest.fixture
def url(shop: Deployment) -> str:
    """An address that answers at once."""
    return shop.url_of("ratings") + "/ratings/0"


@contextlib.contextmanager
def server_that_says(answer: bytes | None) -> Iterator[str]:
    """Answer each connection with the same bytes and close it; with None never answer."""
    held = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.recv(65536)
                held.append(connection)
                if answer is not None:
                    connection.sendall(answer)
                    connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in held:
        connection.close()


def test_closed_loop_sends_as_many_requests_as_asked(shop, url):
    """The server's own count says the same."""
    result = load(url, concurrency=4, requests=100)

    assert result.requests == 100
    assert result.statuses == {200: 100}
    assert shop.counts()["ratings"] == 100


def test_open_loop_sends_at_its_rate(shop, url):
    """So many a second, whatever the answers do: what came too late counts from when it was due."""
    result = load(url, rate=100, requests=50)

    assert np.allclose(np.sort(result.ended_s - result.latencies_s), np.arange(50) / 100)
    assert shop.counts()["ratings"] == 50


def test_open_loop_ends_when_its_time_is_over(shop, url):
    """A request that would be due later is not sent."""
    result = load(url, rate=100, seconds=0.5)

    assert 1 <= result.requests <= 50
    assert shop.counts()["ratings"] == result.requests


def test_open_loop_does_not_wait_for_answers(shop, url):
    """Users do not know of each other: a slow server gets no fewer of them."""
    shop.slow("ratings", seconds=0.5)

    result = load(url, rate=100, requests=20)
    assert result.requests == 20
    assert result.seconds < 20 * 0.5


def test_open_loop_counts_the_wait_for_a_turn(shop, url):
    """Otherwise a server that stands still would look fast: the requests that never left are missing."""
    shop.slow("ratings", seconds=0.2)

    result = load(url, rate=1000, requests=6, max_connections=2)
    assert result.latencies_s.max() > 0.55


def test_statuses_are_counted(shop, url):
    """An error is an answer."""
    shop.fail("ratings", status=503)

    result = load(url, requests=10)
    assert (result.statuses, result.success_rate) == ({503: 10}, 0.0)


def test_lost_request_is_not_sent_again(shop, url):
    """aiohttp would, on a kept connection; then nobody would know."""
    load(url, concurrency=1, requests=1)
    shop.fail("ratings", status=0)
    shop.heal("ratings")
    shop.fail("ratings", rate=0.5, status=0)

    result = load(url, concurrency=1, requests=40)
    assert result.requests == 40
    assert shop.counts()["ratings"] == 40
    assert result.failures["reset"] == 40 - result.statuses[200] > 0


def test_versions_are_told_apart(shop):
    """By the header that each service sends."""
    with loading(shop.url + "/productpage", rate=50) as running:
        wait_until(lambda: running.so_far.requests >= 3, timeout_s=10)

    assert running.result.served_by == {"productpage-v1": running.result.requests}


def test_host_header_can_be_given():
    """By it a sidecar knows which service is meant."""
    with Deployment(bookinfo(2)) as shop:
        result = load(shop.url_of("details") + "/details/0", requests=2, headers={"host": "details"})

    assert result.statuses == {200: 2}


def test_nobody_there_is_a_failure_to_connect():
    """The reasons are told apart, for they have different cures."""
    with socket.socket() as deaf:  # it has the port, so that nobody else gets it, and does not listen
        deaf.bind(("127.0.0.1", 0))

        assert load(f"http://127.0.0.1:{deaf.getsockname()[1]}/", requests=3).failures == {"connect": 3}


def test_no_answer_in_time_is_a_timeout():
    """And the next request is not held up by it for ever."""
    with server_that_says(None) as url:
        assert load(url, requests=2, timeout_s=0.1).failures == {"timeout": 2}


def test_nonsense_is_a_failure_of_the_protocol():
    """An answer, but not one of HTTP."""
    with server_that_says(b"220 mail.example.org ESMTP\r\n\r\n") as url:
        assert load(url, requests=2).failures == {"protocol": 2}


def test_flags_of_envoy_are_counted():
    """UH, UF, URX, …: why Envoy answered as it did; "-" says that there is nothing to say."""
    head = b"HTTP/1.1 503 x\r\ncontent-length: 0\r\nconnection: close\r\nx-response-flags: "
    with server_that_says(head + b"UF,URX\r\n\r\n") as url:
        assert load(url, requests=2).flags == {"UF": 2, "URX": 2}
    with server_that_says(head + b"-\r\n\r\n") as url:
        assert load(url, requests=1).flags == {}


def test_redirect_is_an_answer_and_not_followed():
    """The count would be another's."""
    head = (
        b"HTTP/1.1 302 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    with server_that_says(head) as url:
        assert load(url, requests=2).statuses == {302: 2}


def test_load_goes_on_in_the_background_as_long_as_its_block(url):
    """The route is changed meanwhile."""
    with loading(url, rate=100) as running:
        wait_until(lambda: running.so_far.requests >= 10, timeout_s=10)
        seen = running.so_far.requests

    assert running.result.requests >= seen
    assert running.result.success_rate == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "load"]


def test_load_ends_with_a_block_that_fails(url):
    """And the reader sees the error, at once."""
    with pytest.raises(ZeroDivisionError), loading(url, rate=100):
        raise ZeroDivisionError

    assert not [thread for thread in threading.enumerate() if thread.name == "load"]


def test_load_runs_where_an_event_loop_runs_already(url):
    """Jupyter's kernel has one in the thread that runs the cells."""

    async def cell() -> Load:
        return load(url, requests=5)

    assert asyncio.run(cell()).statuses == {200: 5}


def test_arrays_are_in_the_order_of_the_ends(url):
    """They can be drawn over time as they are."""
    result = load(url, concurrency=4, requests=50)

    assert len(result.ended_s) == len(result.latencies_s) == len(result.codes) == len(result.servers) == 50
    assert np.all(np.diff(result.ended_s) >= 0)
    assert np.all(result.latencies_s > 0)


def test_percentile_is_of_answers_only():
    """What failed at once was not fast."""
    result = load("http://127.0.0.1:1/", requests=2)

    assert np.isnan(result.percentile_s(50))
    assert (result.successes, result.statuses) == (0, {})


def test_summary_says_all_in_a_few_lines(shop, url):
    """What a cell shows."""
    shop.fail("ratings", status=503)

    lines = load(url, requests=3).summary().splitlines()
    assert lines[0].startswith("3 requests in ")
    assert lines[1:3] == ["answers: 3 x 503", "served by: 3 x ratings-v1"]
    assert lines[3].startswith("latency: p50 ")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"rate": 10, "concurrency": 2}, "and not both"),
        ({"rate": 0}, "rate 0: expected more than 0"),
        ({"concurrency": -1}, "concurrency -1: expected more than 0"),
        ({"seconds": 0}, "seconds 0: expected more than 0"),
        ({"requests": 0}, "requests 0: expected more than 0"),
        ({"rate": float("nan")}, "rate nan: expected more than 0"),
    ],
)
def test_load_that_makes_no_sense_is_refused(arguments, reason):
    """Before anything is sent."""
    with pytest.raises(InvalidValue, match=reason):
        load("http://127.0.0.1:1/", **arguments)
