"""Envoy's resources, made of what people want: pure, so compared as dicts."""

from dataclasses import replace

import pytest

from cnlab.mesh import clusters, routes, traffic
from cnlab.mesh.configuration import GATEWAY, Configuration, Workload
from cnlab.mesh.desired import stages
from cnlab.mesh.mixer import rbac
from cnlab.mesh.pilot.bootstrap import CONTROL_PLANE
from cnlab.mesh.pilot.registry import Endpoint, StaticRegistry
from cnlab.mesh.pilot.resources import CDS, EDS, LDS, RDS
from cnlab.mesh.pilot.snapshot import Snapshot
from cnlab.mesh.settings import Surroundings

SHOP = Configuration({"front": ("v1",), "reviews": ("v1", "v2")}, "front")
WORKLOADS = [
    Workload("front-v1-0", "front", "v1", "127.1.2.10"),
    Workload("reviews-v1-0", "reviews", "v1", "127.1.2.11"),
    Workload("reviews-v2-0", "reviews", "v2", "127.1.2.12"),
]
REGISTRY = StaticRegistry(
    Endpoint(one.service, one.address, 9080, {"version": one.version}) for one in WORKLOADS
)
SURROUNDINGS = Surroundings("127.1.2.2")


def nodes(configuration):
    return traffic.nodes(configuration, REGISTRY.services(), WORKLOADS, SURROUNDINGS)


def reviews_routes(configuration, node="front-v1-0"):
    outbound, _ = nodes(configuration)[node][RDS]
    return next(host["routes"] for host in outbound["virtual_hosts"] if host["name"] == "reviews")


def inbound_route(configuration, node="reviews-v1-0"):
    _, inbound = nodes(configuration)[node][RDS]
    return inbound["virtual_hosts"][0]["routes"][0]


@pytest.mark.parametrize(
    "configuration",
    [
        SHOP,
        SHOP.with_mtls("strict"),
        SHOP.with_mtls("disable"),
        SHOP.route("reviews", weights={"v1": 90, "v2": 10}, timeout="1s", mirror={"to": "v2", "percent": 50}),
        SHOP.route(
            "reviews", match={"source": "front", "method": "GET"}, redirect={"path": "/new", "code": 302}
        ),
        SHOP.fault("reviews", delay={"fixed_delay": "1s"}).policy("reviews", rego="package mesh"),
        SHOP.rate_limit("reviews", requests=5, per="second", by="source").rate_limit(
            "reviews", requests=5, per="minute", local=True
        ),
        SHOP.with_external("example.org", ("example.org:80",)).with_external("10.0.0.1", ("10.0.0.1:80",)),
        SHOP.with_ingress(
            [{"match": {"prefix": "/r"}, "service": "reviews"}, {"direct_response": {"status": 404}}]
        ),
        SHOP.cluster("reviews", max_requests_per_connection=1, tls="disable", load_balancing="RANDOM"),
    ],
)
def test_every_node_gets_a_consistent_snapshot_that_envoy_knows_all_words_of(configuration):
    """What a route names must be there, and each field must exist: said before a proxy is asked."""
    for node, resources in nodes(configuration).items():
        snapshot = Snapshot.of("1", resources)
        for needs in (need for resource in snapshot for need in resource.needs or ()):
            kind, name = needs
            assert name in snapshot[kind] or name in (CONTROL_PLANE, "default", "ROOTCA"), (node, needs)


def test_version_has_a_cluster_whether_a_route_uses_it_or_not():
    """So no route can ever name a cluster that is not there yet."""
    names = {one["name"] for one in nodes(SHOP)["front-v1-0"][CDS]}

    assert {
        "outbound|9080||front",
        "outbound|9080|v1|front",
        "outbound|9080||reviews",
        "outbound|9080|v1|reviews",
        "outbound|9080|v2|reviews",
        "inbound|9080||",
    } == names


def test_endpoints_of_a_cluster_are_the_sidecars():
    """Callers reach an app through the proxy that stands before it."""
    members = {
        one["cluster_name"]: [
            (address["address"], address["port_value"])
            for locality in one["endpoints"]
            for member in locality["lb_endpoints"]
            for address in [member["endpoint"]["address"]["socket_address"]]
        ]
        for one in nodes(SHOP)["front-v1-0"][EDS]
    }

    assert [("127.1.2.12", 15006)] == members["outbound|9080|v2|reviews"]
    assert [("127.1.2.11", 15006), ("127.1.2.12", 15006)] == members["outbound|9080||reviews"]


def test_weights_become_weighted_clusters():
    """The words of a canary, in Envoy's."""
    (route,) = reviews_routes(SHOP.route("reviews", weights={"v1": 90, "v2": 10}))

    assert {
        "match": {"prefix": "/"},
        "route": {
            "weighted_clusters": {
                "clusters": [
                    {"name": "outbound|9080|v1|reviews", "weight": 90},
                    {"name": "outbound|9080|v2|reviews", "weight": 10},
                ]
            }
        },
    } == route


def test_rule_with_a_match_stands_before_the_default():
    """Envoy takes the first that matches."""
    canary = SHOP.route("reviews", to="v1").route(
        "reviews", match={"headers": {"end-user": "jason"}}, to="v2"
    )
    first, last = reviews_routes(canary)

    assert {
        "match": {"prefix": "/", "headers": [{"name": "end-user", "string_match": {"exact": "jason"}}]},
        "route": {"cluster": "outbound|9080|v2|reviews"},
    } == first
    assert {"match": {"prefix": "/"}, "route": {"cluster": "outbound|9080|v1|reviews"}} == last


def test_rule_for_one_source_is_in_the_sidecars_of_that_service_only():
    """Who calls is decided where the call begins, so others need not know."""
    configuration = SHOP.route("reviews", match={"source": "front"}, to="v2")

    assert 2 == len(reviews_routes(configuration, "front-v1-0"))
    assert 1 == len(reviews_routes(configuration, "reviews-v1-0"))


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        (50, {"numerator": 50, "denominator": "HUNDRED"}),
        (0.5, {"numerator": 50, "denominator": "TEN_THOUSAND"}),
        (0.001, {"numerator": 10, "denominator": "MILLION"}),
    ],
)
def test_share_below_one_percent_is_kept(percent, expected):
    """Chaos begins small."""
    assert expected == routes.percentage(percent)


def test_retry_budget_takes_the_place_of_a_number_of_retries():
    """Istio's unlimited retries beside a budget would read as if there were no budget."""
    budget = {"retry_budget": {"budget_percent": 20, "min_retry_concurrency": 1}}
    words = clusters.cluster_words("reviews", SHOP.cluster("reviews", circuit_breakers=budget))
    (threshold,) = words["circuit_breakers"]["thresholds"]

    assert {"budget_percent": {"value": 20}, "min_retry_concurrency": 1} == threshold["retry_budget"]
    assert "max_retries" not in threshold


def test_policy_is_switched_on_by_a_route_and_changes_no_listener():
    """A new listener would leave old connections without the policy."""
    before, after = nodes(SHOP), nodes(SHOP.policy("reviews", rego="package mesh"))

    assert before["reviews-v1-0"][LDS] == after["reviews-v1-0"][LDS]
    assert ["envoy.filters.http.ext_authz"] == list(
        inbound_route(SHOP.policy("reviews", rego="package mesh"))["typed_per_filter_config"]
    )


def test_gateway_is_a_node_too_and_has_no_inbound_listener():
    """It stands before no app."""
    assert ["ingress"] == [one["name"] for one in nodes(SHOP)[GATEWAY][LDS]]


def test_ordinary_change_is_made_in_one_step():
    """Only TLS needs more."""
    after = SHOP.route("reviews", to="v2")

    assert [after] == stages(SHOP, after)


def test_service_accepts_both_while_callers_change_to_tls():
    """Else a caller that is quicker than the callee speaks TLS to one who expects plain text."""
    plain = SHOP.with_mtls("disable", "reviews")
    steps = stages(plain, SHOP.with_mtls("strict", "reviews"))

    assert [("permissive", False), ("permissive", True), ("strict", True)] == [
        (step.mtls_of("reviews"), step.is_tls_to("reviews")) for step in steps
    ]


def test_service_accepts_both_while_callers_change_to_plain_text():
    """And the way back."""
    steps = stages(SHOP.with_mtls("strict"), SHOP.with_mtls("disable"))

    assert [("permissive", True), ("permissive", False), ("disable", False)] == [
        (step.mtls_of("reviews"), step.is_tls_to("reviews")) for step in steps
    ]


def test_policy_by_port_means_the_mesh_own_port():
    """A DENY for port 8000 that is compared with 9080 never holds: everybody would come in."""
    spec = {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["8000"]}}]}]}
    manifest = {"kind": "AuthorizationPolicy", "metadata": {"name": "closed"}, "spec": spec}
    shop = replace(SHOP, port=8000).policy("reviews", rbac=[manifest])
    enabled = inbound_route(shop)["typed_per_filter_config"]

    assert rbac.rbac_per_route([manifest], "reviews", port=8000) == enabled
    assert rbac.rbac_per_route([manifest], "reviews", port=9080) != enabled
