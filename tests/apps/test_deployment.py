"""An application without a mesh: started, asked, changed while it runs, and ended."""

from __future__ import annotations

import http.client
import socket
from dataclasses import replace

import pytest

from cnlab.apps import Deployment, bookinfo
from cnlab.apps.bookinfo import client_library
from cnlab.errors import CnlabError, InvalidValue
from cnlab.mesh.load import loading


def test_each_instance_has_an_address_of_its_own(shop):
    """All at the same port, as the field does it."""
    addresses = [running.address for running in shop.instances]

    assert len(set(addresses)) == 6
    assert {address.rpartition(":")[2] for address in addresses} == {"9080"}


def test_application_can_be_started_and_stopped_by_hand():
    """A notebook's cells share one, without a block around them."""
    shop = Deployment(bookinfo(2)).start()
    pids = [running.pid for running in shop.instances]
    shop.stop()

    assert len(pids) == 2
    assert not any(running.is_running for running in shop.instances)


def test_stopped_application_can_be_started_again():
    """The cell is run twice."""
    shop = Deployment(bookinfo(2))
    for _ in range(2):
        with shop:
            assert shop.get("/productpage").status == 200


def test_edges_are_requests_by_caller_and_called(mall):
    """What a service graph is drawn from."""
    mall.get("/search/0", to="search")

    edges = {(edge.source, edge.destination): edge.requests for edge in mall.edges()}
    assert edges["search", "details"] == edges["search", "recommendations"] == 1
    assert edges["details", "prices"] == edges["recommendations", "prices"] == 1
    assert "search" not in {destination for _, destination in edges}


@pytest.mark.needs_programs("gcc", "node")
@pytest.mark.parametrize("service", ["prices", "stock", "cart"])
@pytest.mark.parametrize("status", [503, 0])
def test_edges_know_what_failed(mall, service, status):
    """Where the service itself counts it, in each language: 5xx, or no answer at all."""
    mall.fail(service, status=status)
    mall.get("/checkout/0", to="checkout")

    errors = {
        edge.errors for edge in mall.edges() if edge.destination == service and edge.source != "shipping"
    }
    assert errors == {16 if service != "cart" else 4}


@pytest.mark.needs_programs("gcc", "node")
def test_failure_is_passed_up_the_edges(mall):
    """The cart is well, and answers 503 because the prices do."""
    mall.fail("prices")
    mall.get("/checkout/0", to="checkout")

    assert {(e.source, e.destination): e.errors for e in mall.edges()} == {
        ("cart", "prices"): 16,
        ("checkout", "cart"): 4,
    }


def test_not_found_is_no_failure_of_the_service(mall):
    """4xx is the caller's doing."""
    mall.fail("prices", status=404)
    mall.get("/details/0", to="details")

    assert [edge.errors for edge in mall.edges() if edge.destination == "prices"] == [0]


def test_language_changes_while_requests_go_on():
    """Two instances, one replaced after the other: who calls tries the other one, and no reader notices."""
    application = bookinfo(2)
    details = application.service("details")
    with Deployment(application.replacing(replace(details, replicas=2))) as shop:
        with loading(f"{shop.url}/api/v1/products/0/details", concurrency=2) as running:
            shop.roll("details", details.program.as_twin())

        assert [i.language for i in shop.instances if i.name.startswith("details")] == ["Python", "Python"]
        assert running.result.requests > 0
        assert running.result.success_rate == 1
        assert shop.application.service("details").program.language == "Python"


def test_service_that_is_not_there_is_refused(shop):
    """With the names there are."""
    with pytest.raises(InvalidValue, match="no service 'rating'; bookinfo has productpage"):
        shop.get("/", to="rating")
    with pytest.raises(InvalidValue, match="no service 'rating'"):
        shop.fail("rating")


def test_port_that_is_taken_everywhere_is_named():
    """A program on 0.0.0.0 takes the port of all addresses: a hint saves an hour."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        shop = bookinfo(2)
        shop = shop.replacing(replace(shop.service("details"), port=port))
        with pytest.raises(
            CnlabError, match=rf"0\.0\.0\.0:{port} is taken, bookinfo needs that port"
        ) as caught:
            Deployment(shop).start()

    assert f"sport = :{port}" in caught.value.__notes__[0]


def test_each_language_has_a_library_to_read():
    """The notebook shows them."""
    names = [client_library(language).name for language in ("Python", "JavaScript", "C")]

    assert names == ["client.py", "client.js", "client.h"]
    assert all(client_library(language).is_file() for language in ("Python", "JavaScript", "C"))


def test_question_that_gets_no_answer_is_an_error():
    """Whoever asks is told by the kernel's word."""
    with Deployment(bookinfo(2)) as shop:
        shop.fail("details", status=0)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            shop.get("/details/0", to="details")
