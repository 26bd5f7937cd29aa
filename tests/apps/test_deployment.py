"""An application without a mesh: started, asked, changed while it runs, and ended."""

from __future__ import annotations

import http.client
from dataclasses import replace

import pytest

from cnlab.apps import Deployment, bookinfo
from cnlab.apps.bookinfo import client_library
from cnlab.errors import InvalidValue
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

    edges = mall.edges()
    assert edges["search", "details"] == edges["search", "recommendations"] == 1
    assert edges["details", "prices"] == edges["recommendations", "prices"] == 1
    assert ("unknown", "search") not in edges


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
