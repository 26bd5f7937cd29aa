"""A gRPC client that is its own sidecar, served by the same server as Envoy."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import pytest

from cnlab.clock import wait_until
from cnlab.mesh.pilot.bootstrap import grpc_bootstrap
from cnlab.mesh.pilot.registry import Endpoint
from cnlab.mesh.pilot.resources import (
    CDS,
    EDS,
    LDS,
    RDS,
    api_listener,
    assignment,
    cluster,
    http_connection_manager,
    route,
    route_configuration,
    virtual_host,
)
from cnlab.mesh.pilot.serving import DiscoveryServer

# A process of its own: gRPC reads its bootstrap once, when it is first used.
CLIENT = """
import sys, grpc
with grpc.insecure_channel("xds:///reviews") as channel:
    who = channel.unary_unary("/demo.Demo/Who")
    for line in sys.stdin:
        try:
            print(who(b"", timeout=30).decode(), flush=True)
        except grpc.RpcError as error:
            print(error.code(), error.details(), flush=True)
"""


@contextmanager
def backend(name: str) -> Iterator[Endpoint]:
    """Answer each call with `name`."""
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        who = grpc.unary_unary_rpc_method_handler(lambda _, __: name.encode())
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Demo", {"Who": who}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield Endpoint(name, "127.0.0.1", port)
        finally:
            server.stop(0).wait()


def resources(to, *endpoints):
    host = virtual_host("reviews", ["reviews"], [route(to)])
    return {
        CDS: [cluster(one.service) for one in endpoints],
        EDS: [assignment(one.service, [one]) for one in endpoints],
        LDS: [api_listener("reviews", http_connection_manager("reviews", "reviews"))],
        RDS: [route_configuration("reviews", [host])],
    }


class Client:
    """A process that calls whenever it is told to."""

    def __init__(self, process):
        self._process = process

    def call(self):
        self._process.stdin.write("call\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@pytest.fixture
def world(tmp_path):
    """A server that sends all calls to v1, and a client."""
    with ExitStack() as stack:
        v1, v2 = (stack.enter_context(backend(name)) for name in ("v1", "v2"))
        server = stack.enter_context(DiscoveryServer())
        server.serve("client", resources("v1", v1, v2))
        start = tmp_path / "bootstrap.json"
        start.write_text(json.dumps(grpc_bootstrap("client", server.address)))
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", CLIENT],
                env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(start), "GRPC_VERBOSITY": "NONE"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(process.kill)
        yield server, Client(process), v1, v2
        process.stdin.close()
        assert 0 == process.wait(timeout=30)


def test_grpc_client_follows_the_route(world):
    """Balancing, routes and endpoints without a proxy in between, by the same resources."""
    server, client, v1, v2 = world

    assert "v1" == client.call()
    assert [] == server.settle("client")
    assert ["CDS", "EDS", "LDS", "RDS"] == sorted(one.type for one in server.log)
    server.serve("client", resources("v2", v1, v2))
    wait_until(lambda: client.call() == "v2", timeout_s=30, what="the client to take the new route")
    server.serve("client", resources({"v1": 50, "v2": 50}, v1, v2))
    wait_until(lambda: {client.call() for _ in range(5)} == {"v1", "v2"}, timeout_s=30, what="both")


def test_refused_resource_is_reported_in_grpcs_words(world):
    """gRPC takes part of what Envoy takes and says so; the route before it goes on."""
    server, client, v1, v2 = world
    assert "v1" == client.call()
    bad = resources("v1", v1, v2)
    bad[EDS][0]["endpoints"][0].pop("locality")
    server.serve("client", bad)

    (nack,) = server.settle("client")
    assert ("EDS", ("v1",)) == (nack.type, nack.resources)
    assert "field:endpoints[0].locality error:field not present" in nack.error
    assert "v1" == client.call()
