import inspect

import pytest

from cnlab.mesh.pilot import resources
from cnlab.mesh.pilot.packing import InvalidResource, from_any, to_any
from cnlab.mesh.pilot.registry import Endpoint
from cnlab.mesh.pilot.resources import CDS, EDS, LDS, RDS, SDS, TYPE

HTTP = resources.http_connection_manager("outbound", "outbound")
ROUTES = resources.route_configuration(
    "outbound", [resources.virtual_host("a", ["*"], [resources.route({"v1": 90, "v2": 10}, timeout="5s")])]
)
CHAINS = [{"filters": [HTTP]}]
EVERY = [
    (CDS, resources.cluster("reviews", lb_policy="LEAST_REQUEST")),
    (CDS, resources.static_cluster("app", [("127.0.0.1", 9080)])),
    (CDS, resources.grpc_cluster("xds-grpc", ("127.0.0.1", 15010))),
    (CDS, resources.original_dst_cluster("passthrough")),
    (
        EDS,
        resources.assignment("reviews", [Endpoint("reviews", "127.0.0.1", 1, weight=2, health="DRAINING")]),
    ),
    (EDS, resources.assignment("nobody", [])),
    (LDS, resources.outbound_listener("outbound", "127.0.0.1", 15001, HTTP)),
    (LDS, resources.inbound_listener("inbound", "127.0.0.1", 15006, CHAINS)),
    (
        LDS,
        resources.virtual_listener(
            "virtual", 15001, [{"filters": [resources.tcp_proxy("t", "passthrough")]}]
        ),
    ),
    (LDS, resources.api_listener("reviews", HTTP)),
    (RDS, ROUTES),
    (SDS, resources.tls_certificate("default", "PEM", "PEM")),
    (SDS, resources.validation_context("ROOTCA", "PEM")),
]


@pytest.mark.parametrize(("type_url", "resource"), EVERY)
def test_resource_goes_through_protobuf_and_comes_back(type_url, resource):
    """Every field of what we build exists, and the dict that is printed is the resource that is sent."""
    assert {"@type": type_url, **resource} == from_any(to_any(type_url, resource))


def test_builders_are_pure():
    """What a builder was given, and what it returned before, is not changed by the next call."""
    fields = {"circuit_breakers": {"thresholds": [{"max_connections": 1}]}}
    first, second = (resources.cluster("reviews", **fields) for _ in range(2))

    assert first == second
    assert {"circuit_breakers": {"thresholds": [{"max_connections": 1}]}} == fields


def test_names_of_protobuf_modules_are_nowhere_listed():
    """Any extension of Envoy's documentation can be used: its "@type" says what to import."""
    source = inspect.getsource(resources)
    fault = {"abort": {"http_status": 503, "percentage": {"numerator": 10}}}
    filters = [
        resources.extension("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault")
    ]
    manager = resources.http_connection_manager("outbound", "outbound", filters)
    routes = {"name": "r", "typed_per_filter_config": {"fault": {"@type": TYPE + _FAULT, **fault}}}

    assert "_pb2" not in source
    to_any(LDS, resources.outbound_listener("outbound", "127.0.0.1", 15001, manager))
    assert routes == {key: value for key, value in from_any(to_any(RDS, routes)).items() if key != "@type"}


_FAULT = "envoy.extensions.filters.http.fault.v3.HTTPFault"
MISTAKES = [
    (
        CDS,
        resources.cluster("ratings", connect_timeoutt="1s"),
        "cluster 'ratings': Message type \"envoy.config.cluster.v3.Cluster\" has no field named "
        '"connect_timeoutt"',
    ),
    (
        CDS,
        resources.cluster("ratings", connect_timeout="soon"),
        "cluster 'ratings': Duration must end with letter \"s\": soon. at connect_timeout",
    ),
    (
        CDS,
        resources.cluster("ratings", circuit_breakers={"thresholds": [{"max_conns": 1}]}),
        "cluster 'ratings': Message type \"envoy.config.cluster.v3.CircuitBreakers.Thresholds\" has no field "
        'named "max_conns" at "circuit_breakers.thresholds[0]"',
    ),
    (
        CDS,
        resources.cluster("ratings", lb_policy="FASTEST"),
        "cluster 'ratings': Invalid enum value FASTEST for enum type "
        "envoy.config.cluster.v3.Cluster.LbPolicy at lb_policy",
    ),
    (
        EDS,
        {"cluster_name": "ratings", "endpoints": [{"lb_endpoints": [{"address": "127.0.0.1"}]}]},
        "assignment 'ratings': Message type \"envoy.config.endpoint.v3.LbEndpoint\" has no field named "
        '"address" at "endpoints[0].lb_endpoints[0]"',
    ),
    (
        LDS,
        resources.outbound_listener("outbound", "127.0.0.1", 1, resources.extension("x", "envoy.nope.v3.X")),
        "listener 'outbound': Can not find message descriptor by type_url: "
        "type.googleapis.com/envoy.nope.v3.X at filter_chains[0].filters[0].typed_config",
    ),
]


@pytest.mark.parametrize(("type_url", "resource", "message"), MISTAKES)
def test_wrong_field_is_named_with_its_resource_in_one_line(type_url, resource, message):
    """A student who misspells a word of Envoy's documentation is told which, where, and in which resource."""
    with pytest.raises(InvalidResource) as caught:
        to_any(type_url, resource)

    assert message == str(caught.value)
