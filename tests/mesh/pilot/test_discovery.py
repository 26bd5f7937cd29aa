"""Discovery as a real Envoy sees it, in both variants of ADS."""

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
import small_mesh
from envoy.service.discovery.v3 import discovery_pb2
from small_mesh import PORT, ask, backend, own_address, resources

from bench.mesh_scale import measure
from cnlab.clock import wait_until
from cnlab.mesh.data_plane.proxy import Proxy
from cnlab.mesh.pilot.bootstrap import API_TYPES, bootstrap
from cnlab.mesh.pilot.discovery import SERVICE, Ack, Discovery
from cnlab.mesh.pilot.packing import InvalidResource
from cnlab.mesh.pilot.registry import Endpoint
from cnlab.mesh.pilot.resources import (
    CDS,
    EDS,
    LDS,
    RDS,
    assignment,
    cluster,
    listener,
    static_cluster,
    tcp_proxy,
)
from cnlab.mesh.pilot.serving import DiscoveryServer
from cnlab.mesh.pilot.snapshot import Inconsistent, pack

NODE = "reviews-v1-0"


class World:
    """A discovery server, an Envoy, and two backends that say v1 and v2."""

    def __init__(self, variant: str, stack: ExitStack) -> None:
        self.variant = variant
        self.address = own_address()
        self.v1, self.v2 = (stack.enter_context(backend(name)) for name in ("v1", "v2"))
        self.server = stack.enter_context(DiscoveryServer())
        self.serve(to="v1")
        self.proxy = stack.enter_context(proxy_of(self.server, variant))

    def resources(self, to="v1", *endpoints, **changes):
        return resources(self.address, to, *(endpoints or (self.v1, self.v2)), **changes)

    def serve(self, to="v1", *endpoints, **changes):
        return self.server.serve(NODE, self.resources(to, *endpoints, **changes))

    def settle(self):
        return self.server.settle(NODE)

    def ask(self):
        return ask(self.address)

    def reset(self):
        self.serve(to="v1")
        assert [] == self.settle()
        assert "v1" == self.ask()

    def clusters(self):
        return {one["name"] for one in self.proxy.clusters()}


@contextmanager
def proxy_of(server: DiscoveryServer, variant: str) -> Iterator[Proxy]:
    admin = ("127.0.0.1", 0)
    with Proxy(
        NODE, bootstrap(NODE, "reviews", admin=admin, control_plane=server.address, discovery=variant)
    ) as one:
        yield one


@pytest.fixture(scope="module", params=sorted(API_TYPES))
def shared(request):
    with ExitStack() as stack:
        yield World(request.param, stack)


@pytest.fixture
def world(shared):
    """Each test begins with all requests going to v1."""
    shared.reset()
    return shared


def test_route_change_reaches_requests(world):
    """What was acknowledged is in force: no request after it takes the old way."""
    world.serve(to="v2")

    assert [] == world.settle()
    assert "v2" == world.ask()


def test_changed_endpoint_reaches_requests(world):
    """An instance moved; its cluster and the route to it did not change."""
    moved = type(world.v1)("v1", world.v2.address, world.v2.port)
    before = len(world.server.log)
    world.serve("v1", moved, world.v2)

    assert [] == world.settle()
    assert "v2" == world.ask()
    assert ["EDS"] == [one.type for one in world.server.log[before:]]


def test_ack_says_node_type_version_and_resources(world):
    """That is how one sees who has got what."""
    snapshot = world.serve(to="v2")
    world.settle()

    ack = world.server.log[-1]
    assert (NODE, "RDS", snapshot.version, ("outbound",), "") == (
        ack.node,
        ack.type,
        ack.version,
        ack.resources,
        ack.error,
    )
    assert ack.version == world.server.status()[NODE].versions["RDS"]


def test_refused_route_is_reported_in_envoys_words_and_the_old_one_serves(world):
    """The worst that a mistake does is nothing."""
    bad = world.resources(to="v2")
    bad[RDS][0]["virtual_hosts"].append({**bad[RDS][0]["virtual_hosts"][0], "name": "another"})
    world.server.serve(NODE, bad)

    (nack,) = world.settle()
    assert "Only a single wildcard domain is permitted in route outbound" == nack.error
    assert ("RDS", ("outbound",), False) == (nack.type, nack.resources, nack.is_ack)
    assert "v1" == world.ask()


def test_refused_cluster_does_not_stop_the_good_ones(world):
    """Envoy names the bad one and takes the others, so a route to a good one goes out."""
    snapshot = world.resources(to="new")
    bad = static_cluster("bad", [("127.0.0.1", 1)], type="ORIGINAL_DST")
    new = static_cluster("new", [(world.v2.address, world.v2.port)])
    world.server.serve(NODE, {**snapshot, CDS: [*snapshot[CDS], bad, new]})

    refused = world.settle()
    assert ["CDS"] == [one.type for one in refused]
    assert "bad" in refused[0].error
    assert "v2" == world.ask()


def test_refused_version_is_not_repeated(world):
    """A proxy that says no ten times a second would fill every log."""
    snapshot = world.resources()
    bad = static_cluster("bad", [("127.0.0.1", 1)], connect_timeout="-1s")
    world.server.serve(NODE, {**snapshot, CDS: [*snapshot[CDS], bad]})
    world.settle()
    said_no = [one for one in world.server.log if one.error]
    world.server.serve(NODE, {**world.resources(to="v2"), CDS: [*snapshot[CDS], bad]})
    world.settle()

    assert said_no == [one for one in world.server.log if one.error]
    assert "v2" == world.ask()


def test_removed_cluster_is_gone_after_its_route(world):
    """It is removed only when no route of this Envoy names it any more."""
    before = len(world.server.log)
    world.serve("v2", world.v2)

    assert [] == world.settle()
    kinds = [one.type for one in world.server.log[before:]]
    assert kinds.index("RDS") < kinds.index("CDS")
    assert "v2" == world.ask()
    assert "v1" not in world.clusters()


def test_changed_cluster_warms_and_serves(world):
    """Envoy makes a new cluster of it and waits for its endpoints, which did not change."""
    world.serve("v1", connect_timeout="2s")

    assert [] == world.settle()
    assert "v1" == world.ask()
    assert 0 == world.proxy.stats("cluster_manager.warming_clusters")["cluster_manager.warming_clusters"]


def test_changed_listener_keeps_its_routes(world):
    """Its route configuration did not change, and nobody sends it again."""
    changed = world.resources("v1")
    changed[LDS][0]["per_connection_buffer_limit_bytes"] = 65536
    world.server.serve(NODE, changed)

    assert [] == world.settle()
    assert "v1" == world.ask()


def moving(world, number):
    """A cluster that only this snapshot has, and the route to it: to v1 and v2 in turn."""
    place = (world.v1, world.v2)[number % 2]
    return world.resources(f"c{number}", Endpoint(f"c{number}", place.address, place.port))


def test_no_request_fails_while_clusters_come_and_go(world):
    """Fifty times the old way is taken away, and there is always a way."""
    answers: list[str] = []
    with asking(world.address, answers):
        for number in range(50):
            world.server.serve(NODE, moving(world, number))
            assert [] == world.settle()
            assert f"v{number % 2 + 1}" == world.ask()

    assert {"v1", "v2"} == set(answers)


def test_burst_of_snapshots_ends_with_the_last(world):
    """What comes faster than it can be applied is passed over, but never half applied."""
    answers: list[str] = []
    with asking(world.address, answers):
        for number in range(50):
            world.server.serve(NODE, moving(world, number))
        assert [] == world.settle()

    assert "v2" == world.ask()
    assert {"c49", "xds-grpc"} == world.clusters()
    assert set(answers) <= {"v1", "v2"}


@contextmanager
def asking(address: str, answers: list[str]) -> Iterator[None]:
    """Ask again and again, until the end of the block."""
    is_over = threading.Event()

    def keep_asking() -> None:
        while not is_over.is_set():
            answers.append(ask(address))

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_listener_comes_and_goes(world):
    """Bytes without requests, too."""
    more = world.resources()
    chain = [{"filters": [tcp_proxy("tcp", "v2")]}]
    more[LDS].append(listener("tcp", world.address, PORT + 1, chain))
    world.server.serve(NODE, more)
    assert [] == world.settle()
    assert "v2" == ask(world.address, PORT + 1)

    world.serve()

    assert [] == world.settle()
    wait_until(lambda: _refuses(world.address, PORT + 1), timeout_s=30, what="the listener to close")


def _refuses(address: str, port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex((address, port)) != 0


def test_resource_that_cannot_be_packed_never_leaves(world):
    """Two checks are before Envoy's: fields, and names."""
    count = len(world.server.log)
    with pytest.raises(InvalidResource, match="cluster 'v1'"):
        world.serve("v1", lb_polizei="RANDOM")
    with pytest.raises(Inconsistent, match="names cluster 'v9'"):
        world.serve("v9")

    assert count == len(world.server.log)


@pytest.mark.parametrize("variant", sorted(API_TYPES))
def test_traffic_goes_on_without_a_control_plane_and_a_new_one_takes_over(variant):
    """It starts to count at 1 again, and knows nothing of what the old one has sent."""
    with ExitStack() as stack:
        v1, v2 = (stack.enter_context(backend(name)) for name in ("v1", "v2"))
        address = own_address()
        with DiscoveryServer() as old:
            for _ in range(3):
                old.serve(NODE, resources(address, "v1", v1, v2))
            proxy = stack.enter_context(proxy_of(old, variant))
            assert ["3"] == list({*old.status()[NODE].versions.values()})
        assert "v1" == ask(address)

        with DiscoveryServer(*old.address) as new:
            new.serve(NODE, resources(address, "v2", v2))
            wait_until(lambda: "RDS" in _versions(new), timeout_s=30, what="Envoy to come back")
            assert [] == new.settle(NODE)

            assert {"1"} == {*_versions(new).values()}
            assert "v2" == ask(address)
            assert {"v2", "xds-grpc"} == {one["name"] for one in proxy.clusters()}


def _versions(server: DiscoveryServer) -> dict[str, str]:
    status = server.status()
    return status[NODE].versions if NODE in status else {}


def test_new_control_plane_repeats_nothing_that_delta_clients_have():
    """Versions follow from content, and a client says which it has."""
    with ExitStack() as stack:
        v1, address = stack.enter_context(backend("v1")), own_address()
        with DiscoveryServer() as old:
            old.serve(NODE, resources(address, "v1", v1))
            stack.enter_context(proxy_of(old, "delta"))
        with DiscoveryServer(*old.address) as new:
            new.serve(NODE, resources(address, "v1", v1))
            wait_until(lambda: NODE in new.status() and new.status()[NODE].streams, timeout_s=30)
            assert [] == new.settle(NODE)

            assert [] == new.log
            assert "v1" == ask(address)


def test_who_has_not_answered_is_named():
    """A proxy that is not there is not a proxy that agrees."""
    with DiscoveryServer() as server:
        server.serve("reviews-v1-0", {})

        with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s from reviews-v1-0"):
            server.settle("reviews-v1-0", timeout_s=0.01)


def test_who_goes_away_is_not_waited_for():
    """A sidecar that is killed has no say in a change: the others need not go back for it."""
    address = own_address()
    with backend("v1") as v1, DiscoveryServer() as server:
        server.serve(NODE, resources(address, "v1", v1))
        with proxy_of(server, "delta") as proxy:
            assert [] == server.settle(NODE)
            os.kill(proxy.pid, signal.SIGSTOP)
            server.serve(NODE, resources(address, "v1", v1, connect_timeout="2s"))
            waiting = server._discovery.settle([NODE], timeout_s=30)
            refusals = asyncio.run_coroutine_threadsafe(waiting, server._loop)
            assert not server.status()[NODE].is_settled  # and the wait has begun

            proxy.kill()

            assert [] == refusals.result()


def test_port_taken_is_an_oserror():
    """Two servers cannot listen at one place."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="bind"), DiscoveryServer(*other.getsockname()):
            pass


def test_bootstrap_is_what_envoy_documents():
    """It says how it is to be told the rest, and is itself a resource in Envoy's words."""
    made = bootstrap("n", "c", admin=("127.0.0.1", 15000), control_plane=("127.0.0.1", 15010))

    assert made == json.loads(json.dumps(made))
    assert "DELTA_GRPC" == made["dynamic_resources"]["ads_config"]["api_type"]
    assert cluster("x")["eds_cluster_config"]["eds_config"] == made["dynamic_resources"]["cds_config"]


def test_bad_cluster_that_envoy_does_not_name_is_found(world):
    """Some errors say what, but not where; the good cluster beside it gets through, and requests with it."""
    snapshot = world.resources(to="new")
    bad = static_cluster("bad", [("127.0.0.1", 1)], connect_timeout="-1s")
    new = static_cluster("new", [(world.v2.address, world.v2.port)])
    world.server.serve(NODE, {**snapshot, CDS: [*snapshot[CDS], bad, new]})

    (refused,) = world.settle()
    assert ("bad",) == refused.resources
    assert "Expected positive duration" in refused.error
    assert "v2" == world.ask()


def test_cluster_removed_beside_a_bad_one_is_gone(world):
    """Envoy cannot read the response, so the removal in it has not happened either."""
    snapshot = world.resources()
    old = static_cluster("old", [("127.0.0.1", 1)])
    bad = static_cluster("bad", [("127.0.0.1", 1)], connect_timeout="-1s")
    world.server.serve(NODE, {**snapshot, CDS: [*snapshot[CDS], old]})
    world.settle()
    assert "old" in world.clusters()
    world.server.serve(NODE, {**snapshot, CDS: [*snapshot[CDS], bad]})

    assert ["CDS"] == [one.type for one in world.settle()]
    assert "old" not in world.clusters()


def test_client_that_does_not_say_who_it_is_is_refused():
    """Nothing could be meant for it."""
    with (
        DiscoveryServer() as server,
        grpc.insecure_channel(f"{server.address[0]}:{server.address[1]}") as channel,
    ):
        call = channel.stream_stream(
            f"/{SERVICE}/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter([discovery_pb2.DeltaDiscoveryRequest(type_url=CDS)]), timeout=10))

        assert (grpc.StatusCode.INVALID_ARGUMENT, "the first request has no node.id") == (
            caught.value.code(),
            caught.value.details(),
        )
        assert {} == server.status()


STUDENT = """
from small_mesh import ask, backend, own_address, resources
from cnlab.mesh.pilot.bootstrap import bootstrap
from cnlab.mesh.data_plane.proxy import Proxy
from cnlab.mesh.pilot.serving import DiscoveryServer

address = own_address()
with backend("v1") as v1, DiscoveryServer() as server:
    server.serve("n", resources(address, "v1", v1))
    with Proxy("n", bootstrap("n", "c", admin=("127.0.0.1", 0), control_plane=server.address)):
        print(ask(address), server.settle("n"), end="")
"""


def test_student_needs_no_privilege(student):
    """All of it listens on loopback addresses, at ports that anybody may have."""
    path = {"PYTHONPATH": str(Path(small_mesh.__file__).parent)}
    done = student.run([student.python, "-c", STUDENT], env=path, timeout=60)

    assert ("v1 []", "") == (done.stdout, done.stderr)


def test_one_endpoint_costs_no_full_push():
    """Twenty real streams of twenty services: everything once, then one assignment each."""
    figures = measure(20)

    one = Endpoint("service-1", "10.0.0.1", 9081)
    size = len(pack(EDS, assignment("service-1", [one, one])).in_delta)
    assert 20 * size <= figures.change_bytes <= 20 * (size + 100)
    assert 20 < figures.full_bytes / figures.change_bytes


def test_log_is_bounded():
    """A control plane runs for months, and a proxy that refuses may do so often."""
    discovery = Discovery(log_size=2)
    discovery.log.extend(Ack("n", "CDS", str(number), "1", error="no") for number in range(5))

    assert ["3", "4"] == [one.version for one in discovery.nacks]
