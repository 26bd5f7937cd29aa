"""What every service answers, the same whether it is written in C, JavaScript or Python."""

from __future__ import annotations

import signal
import threading

import pytest
from apps.wire import DETAILS, RATINGS, REVIEWS, connect, read_response, start

from cnlab.apps.deployment import exchange
from cnlab.apps.launcher import NotStarted
from cnlab.clock import wait_until

SERVICES = pytest.mark.parametrize("service", [RATINGS, DETAILS, REVIEWS])
pytestmark = SERVICES


def ask(shop, service: str, head: str) -> tuple[int, str]:
    """Send bytes to a service and read one response."""
    with connect(shop.url_of(service).removeprefix("http://")) as connection:
        connection.sendall(head.encode("latin-1"))
        return read_response(connection)


def test_connection_is_kept_for_the_next_request(shop, service):
    """A proxy keeps connections to its application open."""
    with connect(shop.url_of(service).removeprefix("http://")) as connection:
        for _ in range(3):
            connection.sendall(f"GET /{service}/0 HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            status, _ = read_response(connection)

            assert status == 200


def test_two_requests_in_one_packet_are_both_answered(shop, service):
    """Where one request ends and the next begins is not where a packet does."""
    with connect(shop.url_of(service).removeprefix("http://")) as connection:
        first = f"POST /{service}/0 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
        connection.sendall(f"{first}GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        received = b""
        while more := connection.recv(65536):
            received += more

    assert received.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(
    "head",
    [
        "nonsense\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: x\r\ncontent-length: 5x\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: x\r\nlarge: " + "x" * 70_000 + "\r\n\r\n",
        "GET /" + "x" * 70_000 + " HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["nonsense", "negative length", "length that is no number", "large header", "long path"],
)
def test_request_that_breaks_the_rules_is_refused_and_the_service_goes_on(shop, service, head):
    """Whoever can reach the port can send this."""
    try:
        status, _ = ask(shop, service, head)
    except ConnectionError:  # closed without an answer, which is an answer too
        status = 400

    assert 400 <= status < 600
    assert shop.get(f"/{service}/0", to=service).status == 200


def test_body_beyond_the_limit_is_not_read(shop, service):
    """Nobody here has use for it."""
    head = f"POST /{service}/0 HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n"
    try:
        status, _ = ask(shop, service, head)
    except ConnectionError:
        status = 413

    assert 400 <= status < 500
    assert shop.get(f"/{service}/0", to=service).status == 200


def test_service_can_be_told_to_fail(shop, service):
    """A sick service, as opposed to a fault that a proxy makes up."""
    shop.fail(service, status=429, retry_after=7)

    response = shop.get(f"/{service}/0", to=service)
    assert (response.status, response.headers["retry-after"]) == (429, "7")
    assert response.served_by == f"{service}-v1"


def test_service_can_be_told_to_close_without_an_answer(shop, service):
    """What a crash looks like from outside."""
    shop.fail(service, status=0)

    with pytest.raises(ConnectionError):
        shop.get(f"/{service}/0", to=service)


def test_requests_are_counted_but_not_the_questions_about_them(shop, service):
    """Each number of notebook 10 is read here."""
    for _ in range(3):
        shop.get(f"/{service}/0", to=service, headers={"user-agent": "test"})
    shop.get("/health", to=service)
    shop.fail(service, rate=0)

    assert shop.counts(service)["test"] == 3
    assert shop.counts()[service] == 3


def test_service_that_was_healed_counts_from_zero(shop, service):
    """Each cell begins anew."""
    shop.fail(service)
    shop.get(f"/{service}/0", to=service)
    shop.heal(service)

    assert shop.counts()[service] == 0
    assert shop.get(f"/{service}/0", to=service).status == 200


def test_knob_with_a_wrong_value_breaks_nothing(shop, service):
    """It is a service, after all."""
    address = shop.url_of(service).removeprefix("http://")
    for path in ("/_fail?rate=many", "/_slow?seconds=", "/_slow", "/_fail", "/_nothing"):
        exchange(address, "POST", path)

    assert shop.get(f"/{service}/0", to=service).status == 200


def test_request_in_flight_is_answered_when_the_service_is_stopped(launcher, service):
    """A rolling update must not cost a request."""
    running = start(launcher, service)
    exchange(running.address, "POST", "/_slow?seconds=1")
    with connect(running.address) as connection:
        connection.sendall(f"GET /{service}/0 HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        wait_until(lambda: exchange(running.address, "GET", "/_count").json()["requests"], timeout_s=30)
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        status, head = read_response(connection)
        stopping.join()

    assert status == 200
    assert "connection: close" in head or service == DETAILS  # Node.js closes without announcing it
    assert not running.is_running
    assert running.returncode == 0


def test_idle_connection_does_not_hold_up_the_end(launcher, service):
    """A proxy keeps connections open for an hour."""
    running = start(launcher, service)
    with connect(running.address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        read_response(connection)
        running.stop(timeout_s=60)

    assert running.returncode == 0, f"expected its own end, got signal {signal.Signals(-running.returncode)}"


def test_taken_address_is_said_in_one_line(launcher, service):
    """With the name of the service, the address and the reason."""
    first = start(launcher, service)

    with pytest.raises(NotStarted) as caught:
        start(launcher, service, LISTEN=first.address)
    assert str(caught.value) == f"{service}-v1: cannot listen on {first.address}: Address already in use"
    assert f"src {first.address}" in caught.value.__notes__[0]
