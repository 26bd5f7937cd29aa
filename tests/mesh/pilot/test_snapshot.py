import gc

import pytest

from cnlab.mesh.pilot import snapshot as module
from cnlab.mesh.pilot.packing import InvalidResource
from cnlab.mesh.pilot.references import references
from cnlab.mesh.pilot.registry import Endpoint
from cnlab.mesh.pilot.resources import (
    ADS,
    CDS,
    EDS,
    LDS,
    RDS,
    SDS,
    assignment,
    cluster,
    http_connection_manager,
    outbound_listener,
    route,
    route_configuration,
    static_cluster,
    tcp_proxy,
    tls_certificate,
    typed,
    virtual_host,
)
from cnlab.mesh.pilot.snapshot import Inconsistent, Snapshot, differences, pack

ENDPOINT = Endpoint("v1", "127.0.0.1", 9080)
TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


def routes(*to, **action):
    return route_configuration("outbound", [virtual_host("a", ["*"], [route(one, **action) for one in to])])


def listener(routes="outbound"):
    return outbound_listener("outbound", "127.0.0.1", 15001, http_connection_manager("outbound", routes))


def encrypted(secret):
    wanted = [{"name": secret, "sds_config": ADS}]
    context = typed(TLS, common_tls_context={"tls_certificate_sds_secret_configs": wanted})
    return {"transport_socket": {"name": "tls", "typed_config": context}}


WHOLE = {
    CDS: [cluster("v1")],
    EDS: [assignment("v1", [ENDPOINT])],
    LDS: [listener()],
    RDS: [routes("v1")],
}


def test_equal_resources_are_one_object():
    """A thousand proxies with the same resources must not cost a thousand copies."""
    first, second = pack(CDS, cluster("v1")), pack(CDS, cluster("v1"))

    assert first is second
    assert first is not pack(CDS, cluster("v1", connect_timeout="2s"))
    assert Snapshot.of("1", WHOLE)[CDS]["v1"] is Snapshot.of("2", WHOLE)[CDS]["v1"]


def test_resource_nobody_has_is_forgotten():
    """A control plane that runs for months makes a certificate an hour."""
    version = pack(CDS, cluster("forgotten")).version
    gc.collect()

    assert version not in module._PACKED


def test_version_of_resource_follows_from_its_content():
    """A control plane that starts anew gives everything the version it had, and sends nothing again."""
    ordered = dict(sorted(cluster("v1").items()))

    assert pack(CDS, cluster("v1")).version == pack(CDS, ordered).version
    assert pack(CDS, cluster("v1")).version != pack(CDS, cluster("v2")).version


def test_snapshot_prints_as_the_dicts_it_was_made_of():
    """What is served can be pasted into a bootstrap file."""
    assert {"@type": CDS, **cluster("v1")} == Snapshot.of("1", WHOLE)[CDS]["v1"].to_dict()
    assert [{"@type": RDS, **routes("v1")}] == list(Snapshot.of("1", WHOLE).to_dict().values())[3]


def test_update_shares_what_it_does_not_change():
    """A new endpoint costs its assignment, not a copy of everything."""
    old = Snapshot.of("1", WHOLE)
    new = old.updated("2", pack(EDS, assignment("v1", [ENDPOINT, ENDPOINT])))

    assert {EDS: frozenset({"v1"})} == differences(old, new)
    assert old[CDS] is new[CDS]
    assert "1" == old.version
    assert 1 == len(old[EDS]["v1"].to_dict()["endpoints"][0]["lb_endpoints"])


def test_difference_is_found_between_snapshots_made_separately():
    """Whoever makes snapshots need not say what has changed."""
    changed = {**WHOLE, CDS: [cluster("v1"), static_cluster("app", [("127.0.0.1", 1)])], RDS: []}

    assert {CDS: frozenset({"app"}), RDS: frozenset({"outbound"})} == differences(
        Snapshot.of("1", WHOLE), Snapshot.of("2", changed)
    )
    assert {} == differences(Snapshot.of("1", WHOLE), Snapshot.of("2", WHOLE))


def test_update_may_take_away():
    """The names that are gone are part of the difference."""
    old = Snapshot.of("1", WHOLE)
    new = old.updated("2", removed=[(CDS, "v1"), (EDS, "v1")])

    assert {CDS: frozenset({"v1"}), EDS: frozenset({"v1"})} == differences(old, new)


def test_wrong_field_is_found_before_anything_is_served():
    """A snapshot consists of valid resources or does not exist."""
    with pytest.raises(InvalidResource, match="cluster 'v1'"):
        Snapshot.of("1", {CDS: [cluster("v1", lb_polity="RANDOM")]})


def test_name_there_twice_is_refused():
    """Envoy would take the later one, silently."""
    with pytest.raises(Inconsistent, match="cluster 'v1' is there twice"):
        Snapshot.of("1", {CDS: [cluster("v1"), cluster("v1", lb_policy="RANDOM")]})


@pytest.mark.parametrize(
    ("type_url", "resource", "named"),
    [
        (CDS, cluster("v1"), [(EDS, "v1")]),
        (CDS, cluster("v1", eds_cluster_config={"eds_config": ADS, "service_name": "r"}), [(EDS, "r")]),
        (CDS, static_cluster("app", [("127.0.0.1", 1)]), []),
        (CDS, cluster("v1", **encrypted("default")), [(EDS, "v1"), (SDS, "default")]),
        (RDS, routes("v1", {"v2": 1, "v3": 1}), [(CDS, "v1"), (CDS, "v2"), (CDS, "v3")]),
        (RDS, routes("v1", request_mirror_policies=[{"cluster": "v3"}]), [(CDS, "v1"), (CDS, "v3")]),
        (LDS, listener(), [(RDS, "outbound")]),
        (LDS, listener(routes("v1")), [(CDS, "v1")]),
        (
            LDS,
            {"name": "l", "filter_chains": [{"filters": [tcp_proxy("t", "app")]}], **encrypted("own")},
            [(CDS, "app"), (SDS, "own")],
        ),
    ],
)
def test_resource_names_others(type_url, resource, named):
    """From these names follow both whether a snapshot is consistent and the order of sending."""
    assert sorted(named) == sorted(references(type_url, resource))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({EDS: []}, "cluster 'v1' names assignment 'v1', which is not among none"),
        ({RDS: []}, "listener 'outbound' names route configuration 'outbound', which is not among none"),
        ({RDS: [routes("v9")]}, "route configuration 'outbound' names cluster 'v9', which is not among 'v1'"),
        (
            {CDS: [cluster("v1", **encrypted("default"))]},
            "cluster 'v1' names secret 'default', which is not among none",
        ),
    ],
)
def test_dangling_name_is_found_and_both_ends_are_named(change, message):
    """Envoy would take each of these resources, and answer requests with 503."""
    snapshot = Snapshot.of("1", {**WHOLE, **change})

    with pytest.raises(Inconsistent) as caught:
        snapshot.check_consistent()

    assert message == str(caught.value)


def test_consistent_snapshot_passes():
    """Also where a route sends to a cluster of the bootstrap, if that is said."""
    Snapshot.of("1", WHOLE).check_consistent()
    secret = [tls_certificate("default", "PEM", "PEM")]
    Snapshot.of("1", {**WHOLE, SDS: secret, CDS: [cluster("v1", **encrypted("default"))]}).check_consistent()
    Snapshot.of("1", {**WHOLE, RDS: [routes("v1", "xds-grpc")]}).check_consistent(elsewhere=["xds-grpc"])
