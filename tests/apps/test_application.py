"""Descriptions of applications, without running any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cnlab.apps import Application, Instance, Program, Service, bookinfo
from cnlab.errors import InvalidValue

PROGRAM = Program(Path("service.py"))


def test_bookinfo_is_written_in_three_languages():
    """The reason for the whole layer: no library serves them all."""
    languages = {service.name: service.program.language for service in bookinfo().services}

    assert languages == {
        "productpage": "Python",
        "details": "JavaScript",
        "reviews": "Python",
        "ratings": "C",
    }


def test_every_version_has_an_instance():
    """Canary and mirroring need more than one version at a time."""
    names = [instance.name for instance in bookinfo().instances()]

    assert names == [
        "productpage-v1-0",
        "details-v1-0",
        "reviews-v1-0",
        "reviews-v2-0",
        "reviews-v3-0",
        "ratings-v1-0",
    ]


@pytest.mark.parametrize("services", range(2, 13))
def test_application_of_every_size_is_whole(services):
    """Each service is reached from the page, and nobody calls one that is not there yet."""
    application = bookinfo(services)
    reached = {application.entry}
    for _ in application.services:
        reached |= {called for caller, called in application.edges() if caller in reached}

    assert len(application.services) == services
    assert reached == set(application.names)


def test_every_program_is_there_with_its_twin():
    """A machine without gcc or Node.js runs the twin; a missing file would be found only there."""
    programs = [service.program for service in bookinfo(12).services]

    assert [program.source for program in programs if not program.source.is_file()] == []
    assert [p.source for p in programs if p.language != "Python" and not p.as_twin().source.is_file()] == []


@pytest.mark.parametrize("services", [0, 1, 13])
def test_size_that_bookinfo_never_had_is_refused(services):
    """One service would be a monolith."""
    with pytest.raises(InvalidValue, match=f"{services} services: bookinfo has 2 to 12"):
        bookinfo(services)


def test_environment_tells_who_one_is_and_where_peers_are():
    """The program itself knows no address: behind a sidecar all of them are the sidecar's."""
    instance = Instance(Service("page", PROGRAM, calls=("user-names", "gone")), "v2")

    assert instance.environment(listen="127.1.2.3:9080", peers={"user-names": ["a:1", "b:2"]}) == {
        "SERVICE_NAME": "page",
        "SERVICE_VERSION": "v2",
        "LISTEN": "127.1.2.3:9080",
        "CALLS": "user-names",
        "CLIENT": "plain",
        "USER_NAMES_ADDR": "a:1,b:2",
    }


def test_replicas_are_numbered():
    """Each has an address and a name of its own."""
    service = Service("stock", PROGRAM, versions=("v1", "v2"), replicas=2)

    names = [instance.name for instance in service.instances()]
    assert names == ["stock-v1-0", "stock-v1-1", "stock-v2-0", "stock-v2-1"]


def test_service_can_be_replaced_by_one_in_another_language():
    """Nobody else has to know: that is what democratisation of the choice means."""
    details = bookinfo().service("details")

    changed = bookinfo().replacing(replace(details, program=details.program.as_twin()))

    assert changed.service("details").program.language == "Python"
    assert changed.names == bookinfo().names


def test_unknown_service_is_refused_with_the_names_there_are():
    """A typing error should not need the documentation."""
    with pytest.raises(InvalidValue, match="no service 'rating'; bookinfo has productpage, details, rev"):
        bookinfo().service("rating")


def test_application_whose_services_call_strangers_is_refused():
    """Better here than as an error page."""
    with pytest.raises(InvalidValue, match="page calls 'ghost', which shop does not have"):
        Application("shop", (Service("page", PROGRAM, calls=("ghost",)),), entry="page")


def test_application_without_its_entry_is_refused():
    """There would be nobody to answer a request from outside."""
    with pytest.raises(InvalidValue, match="shop calls 'productpage', which shop does not have"):
        Application("shop", (Service("page", PROGRAM),))


def test_two_services_of_one_name_are_refused():
    """Which of them would a call mean?"""
    with pytest.raises(InvalidValue, match="two services have the same name"):
        Application("shop", (Service("page", PROGRAM), Service("page", PROGRAM)), entry="page")


def test_program_without_a_twin_says_so():
    """It cannot run where its language is missing."""
    with pytest.raises(InvalidValue, match=r"service\.py: there is no Python twin"):
        PROGRAM.as_twin()
