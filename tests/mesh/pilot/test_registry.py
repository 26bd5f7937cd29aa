import json

import pytest

from cnlab.errors import InvalidValue
from cnlab.mesh.pilot.registry import Endpoint, Registry, Service, StaticRegistry

V1 = Endpoint("reviews", "127.1.2.10", 9080, labels={"version": "v1"})
V2 = Endpoint("reviews", "127.1.2.11", 9080, labels={"version": "v2"})
RATINGS = Endpoint("ratings", "127.1.2.12", 9080)


def test_plain_list_becomes_services():
    """Routes name services and versions; instances come and go behind them."""
    registry: Registry = StaticRegistry([V1, RATINGS, V2])

    assert {
        "reviews": Service("reviews", (V1, V2)),
        "ratings": Service("ratings", (RATINGS,)),
    } == registry.services()


def test_subset_of_service_has_a_version():
    """A DestinationRule's subset is a label; the empty one is the whole service."""
    service = Service("reviews", (V1, V2))

    assert ("v1", "v2") == service.versions
    assert (V2,) == service.subset("v2")
    assert (V1, V2) == service.subset("")
    assert () == service.subset("v3")


def test_endpoint_added_at_the_same_place_replaces_the_old_one():
    """The kernel lets only one listen there, so what was known of it is out of date."""
    registry = StaticRegistry([V1])
    weak = Endpoint("reviews", "127.1.2.10", 9080, labels={"version": "v1"}, weight=3, health="DRAINING")

    registry.add(weak)

    assert (weak,) == registry.services()["reviews"].endpoints


def test_service_without_endpoints_is_still_a_service():
    """A request to it is answered with 503, not with 404: it is known, and nobody serves it now."""
    registry = StaticRegistry([RATINGS])

    registry.remove(RATINGS)

    assert {"ratings": Service("ratings")} == registry.services()


def test_removing_what_is_not_there_is_refused():
    """Whoever does that believes something wrong about the registry."""
    with pytest.raises(InvalidValue, match=r"endpoint ratings@127\.1\.2\.12:9080 is not in the registry"):
        StaticRegistry([V1]).remove(RATINGS)


def test_listener_is_told_which_service_changed():
    """A control plane then computes what this service is part of, not everything."""
    registry = StaticRegistry([V1])
    told: list[str] = []

    with registry.subscribe(told.append):
        registry.add(V2)
        registry.remove(V1)
    registry.add(RATINGS)

    assert ["reviews", "reviews"] == told


def test_replacing_the_list_tells_only_of_services_that_differ():
    """A control plane that gets the whole list on each change still pushes only what changed."""
    registry = StaticRegistry([V1, V2, RATINGS])
    told: list[str] = []

    with registry.subscribe(told.append):
        registry.replace([V1, V2])
        registry.replace([V1, V2])
        registry.replace([V1])

    assert ["ratings", "reviews"] == told
    assert {"reviews": Service("reviews", (V1,))} == registry.services()


def test_endpoint_goes_through_json():
    """So that a list can be sent to a control plane in another process."""
    endpoint = Endpoint(
        "reviews", "127.1.2.10", 9080, {"version": "v3"}, service_account="r", weight=2, health="DEGRADED"
    )

    assert endpoint == Endpoint.from_dict(json.loads(json.dumps(endpoint.to_dict())))
    assert "r" == endpoint.identity
    assert "reviews" == V1.identity


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"port": 0}, "port 0 is not 1 to 65535"),
        ({"health": "fine"}, "health 'fine' is none of UNKNOWN, HEALTHY"),
        ({"weight": 0}, "weight 0 is less than 1"),
        ({"prot": 1}, "unexpected keyword argument 'prot'"),
    ],
)
def test_wrong_endpoint_is_refused(wrong, message):
    """One line that says which word is wrong, before Envoy has to."""
    with pytest.raises(InvalidValue, match=message):
        Endpoint.from_dict({"service": "reviews", "address": "127.1.2.3", "port": 9080, **wrong})
