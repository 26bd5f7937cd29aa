"""Three client libraries, three opinions: counted where the requests arrive.

Notebook 10 measures what is asserted here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from cnlab.apps import Deployment, bookinfo
from cnlab.clock import wait_until
from cnlab.mesh.load import load

pytestmark = pytest.mark.needs_programs("gcc", "node")
PYTHON, JAVASCRIPT, C = "recommendations", "details", "shipping"
EACH = pytest.mark.parametrize("caller", [PYTHON, JAVASCRIPT, C])


def requests_sent(shop: Deployment, caller: str) -> int:
    """Let one service ask the prices once on behalf of a user, and count what arrives there."""
    shop.get(f"/{caller}/0", to=caller)
    return shop.counts("prices")[f"{caller}/v1"]


@EACH
def test_healthy_service_is_asked_once(mall, caller):
    """All agree on that."""
    assert requests_sent(mall, caller) == 1


@pytest.mark.parametrize(
    ("status", "python", "javascript", "c"),
    [(503, 3, 4, 1), (500, 1, 4, 1), (429, 3, 4, 1), (404, 1, 1, 1), (0, 3, 4, 2)],
)
def test_libraries_disagree_about_what_to_try_again(mall, status, python, javascript, c):
    """What is retryable, and how often, nobody has ever written down for all of them."""
    mall.fail("prices", status=status)

    sent = {caller: requests_sent(mall, caller) for caller in (PYTHON, JAVASCRIPT, C)}
    assert sent == {PYTHON: python, JAVASCRIPT: javascript, C: c}


def test_libraries_disagree_about_how_long_to_wait(mall):
    """Slow for one is dead for another, which asks again and makes the slow one slower."""
    mall.slow("prices", seconds=1.0)

    sent = {caller: requests_sent(mall, caller) for caller in (PYTHON, JAVASCRIPT, C)}
    assert sent == {PYTHON: 1, JAVASCRIPT: 4, C: 1}


def test_library_that_repeats_a_post_orders_more_than_once(mall):
    """RFC 9110, 9.2.2: a client should not retry a method that is not idempotent on its own."""

    def parcels() -> int:
        return mall.get("/shipping/0", to="shipping").json()["parcels"]

    before = parcels()
    mall.slow("shipping", seconds=1.0)
    order = mall.post("/checkout/0", to="checkout")
    mall.heal("shipping")
    wait_until(lambda: parcels() >= before + 4, timeout_s=20)

    assert order.status == 503
    assert parcels() == before + 4


def test_python_waits_as_long_as_the_server_asks(mall):
    """Retry-After is honoured by one of the three."""
    mall.fail("prices", status=503, retry_after=0)

    assert requests_sent(mall, PYTHON) == 3


def test_retries_multiply_on_the_way_down(mall):
    """Each layer tries again what the layer below has tried again already."""
    mall.fail("prices")

    mall.get("/api/page")

    assert mall.counts("prices") == {"cart/v1": 60, "details/v1": 8, "recommendations/v1": 6}


@pytest.fixture(scope="module")
def many() -> Iterator[Deployment]:
    """Three instances of the prices."""
    application = bookinfo(12)
    with Deployment(application.replacing(replace(application.service("prices"), replicas=3))) as shop:
        yield shop


def spread(shop: Deployment, caller: str, requests: int) -> list[int]:
    """Return how many requests each instance of the prices has had from a caller."""
    shop.heal()
    for _ in range(requests):
        shop.get(f"/{caller}/0", to=caller)
    return [by.get(f"{caller}/v1", 0) for by in shop.counts_by_instance("prices").values()]


def test_python_asks_one_instance_after_the_other(many):
    """Round robin."""
    assert spread(many, PYTHON, 9) == [3, 3, 3]


def test_javascript_asks_whom_it_draws(many):
    """Random, which is even only in the long run."""
    drawn = spread(many, JAVASCRIPT, 60)

    assert sum(drawn) == 60
    assert min(drawn) > 0


def test_c_asks_the_first_instance_only(many):
    """As it is used to from getaddrinfo(3): the others are for when the first is gone."""
    assert spread(many, C, 9) == [9, 0, 0]


@pytest.fixture(scope="module")
def plain() -> Iterator[Deployment]:
    """An application that leaves all that to somebody else, as in a mesh."""
    with Deployment(bookinfo(12), client="plain") as shop:
        yield shop


@EACH
@pytest.mark.parametrize("status", [503, 0])
def test_plain_client_never_tries_again(plain, caller, status):
    """In a mesh the sidecar decides that, for all languages alike."""
    plain.heal()
    plain.fail("prices", status=status)

    assert requests_sent(plain, caller) == 1


@EACH
def test_plain_client_waits_for_a_slow_service(plain, caller):
    """And how long, too."""
    plain.heal()
    plain.slow("prices", seconds=2.2)

    assert plain.get(f"/{caller}/0", to=caller).status == 200
    assert plain.counts("prices")[f"{caller}/v1"] == 1


def test_python_tries_another_instance_however_many_calls_there_are_at_once():
    """Each call goes on from its own turn; one that all share may come back to the instance that is away."""
    small = bookinfo(2)
    with Deployment(small.replacing(replace(small.service("details"), replicas=2))) as shop:
        shop.instances[-1].stop()
        result = load(f"{shop.url}/api/v1/products/0/details", requests=80, concurrency=8)

    assert result.statuses == {200: 80}
