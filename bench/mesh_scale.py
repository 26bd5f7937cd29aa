"""One control plane and N proxies of N services: a full push beside one changed endpoint, over real gRPC.

The control plane is a process of its own. The proxies are delta streams, each with its own connection, that
acknowledge and otherwise look at the first bytes of a response only, so that it is not they who are measured.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb

from cnlab.linux import procfs
from cnlab.mesh.pilot import resources as of
from cnlab.mesh.pilot.discovery import SERVICE, Discovery
from cnlab.mesh.pilot.registry import Endpoint
from cnlab.mesh.pilot.resources import CDS, EDS, LDS, RDS
from cnlab.mesh.pilot.snapshot import Snapshot, pack

SIZES = (10, 100, 1000)
CHANGES = 15
INSTANCES = 2
PROMISED_S = 1.0
PICTURE = Path("build/bench/mesh_scale.png")
_SEPARATE = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True)
class Figures:
    """What one size cost."""

    size: int
    full_s: float
    full_bytes: int
    change_s: float
    change_bytes: int
    idle_bytes: int
    memory_bytes: int

    @property
    def ratio(self) -> float:
        """The time of one changed endpoint as a part of a full push."""
        return self.change_s / self.full_s


def main() -> None:
    """Measure, print and draw."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        figures = [measure(size) for size in SIZES]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print("mesh_scale: N delta streams of N services, one control plane")
    print("    N   full push              one endpoint, to all      ratio   control plane")
    for one in figures:
        print(
            f"{one.size:5}   {one.full_s:6.2f} s {one.full_bytes / 1e6:8.2f} MB"
            f"   {one.change_s * 1e3:7.1f} ms {one.change_bytes / 1e3:7.1f} kB"
            f"   1 : {1 / one.ratio:5.0f}   {one.memory_bytes / 1e6:5.0f} MB"
            f" ({(one.memory_bytes - one.idle_bytes) / one.size / 1e3:.0f} kB a proxy)"
        )
    last = figures[-1]
    part = last.change_s / PROMISED_S
    print(f"one endpoint to {last.size} proxies  {part:.2f} x the promised {PROMISED_S:g} s")
    draw(figures)
    print(f"plot: {PICTURE}")


def measure(size: int) -> Figures:
    """Start a control plane and `size` clients, push everything, then one endpoint at a time."""
    serve = f"from bench.mesh_scale import control_plane; control_plane({size})"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", serve], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            return asyncio.run(_measure(process, size))
        finally:
            process.kill()


async def _measure(control: subprocess.Popen[str], size: int) -> Figures:
    assert control.stdout
    port, pid = int(control.stdout.readline()), control.pid
    clients = Clients(size)
    tasks = [asyncio.create_task(clients.run(number, port)) for number in range(size)]
    await asyncio.wait_for(clients.are_subscribed.wait(), 60)
    idle_bytes = pss_bytes(pid)
    full_s, full_bytes = await _push(control, clients, CDS, EDS, LDS, RDS)
    changes = [await _push(control, clients, EDS) for _ in range(CHANGES)]
    memory_bytes = pss_bytes(pid)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    times, sizes = zip(*changes, strict=True)
    change_s = statistics.median(times)
    return Figures(size, full_s, full_bytes, change_s, statistics.median(sizes), idle_bytes, memory_bytes)


async def _push(control: subprocess.Popen[str], clients: Clients, *types: str) -> tuple[float, int]:
    """Let the control plane change something; return the seconds until all have it, and the bytes."""
    clients.expect(types)
    assert control.stdin
    started = time.monotonic()
    control.stdin.write("change\n")
    control.stdin.flush()
    await asyncio.wait_for(clients.are_done.wait(), 120)
    return clients.last_s - started, clients.received


class Clients:
    """Proxies that subscribe to everything, acknowledge it, and count."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.received = 0
        self.last_s = 0.0
        self.are_subscribed = asyncio.Event()
        self.are_done = asyncio.Event()
        self._subscribed = 0
        self._missing: set[tuple[int, str]] = set()

    def expect(self, types: tuple[str, ...]) -> None:
        """Begin to count; done when every client has got one response of each type."""
        self.received = 0
        self._missing = {(number, type_url) for number in range(self.size) for type_url in types}
        self.are_done.clear()

    async def run(self, number: int, port: int) -> None:
        """Be one proxy until cancelled."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_SEPARATE) as channel:
            stream = channel.stream_stream(f"/{SERVICE}/DeltaAggregatedResources")()
            for request in self._subscriptions(number):
                await stream.write(request.SerializeToString())
            self._subscribed += 1
            if self._subscribed == self.size:
                self.are_subscribed.set()
            async for response in stream:
                type_url, nonce = head(response)
                self._count(number, type_url, len(response))
                answer = pb.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce)
                await stream.write(answer.SerializeToString())

    def _subscriptions(self, number: int) -> list[Any]:
        names = {EDS: [f"service-{one}" for one in range(self.size)], RDS: ["outbound"]}
        made = [
            pb.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names.get(type_url, ()))
            for type_url in (CDS, EDS, LDS, RDS)
        ]
        made[0].node.id = f"node-{number}"
        return made

    def _count(self, number: int, type_url: str, size: int) -> None:
        self.received += size
        self._missing.discard((number, type_url))
        if not self._missing:
            self.last_s = time.monotonic()
            self.are_done.set()


def pss_bytes(pid: int) -> int:
    """Return what a process takes of the memory, shared pages by their share."""
    lines = procfs.read(pid, "smaps_rollup").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def head(response: bytes) -> tuple[str, str]:
    """Return type URL and nonce of a DeltaDiscoveryResponse; ours come before its resources."""
    found, at = {}, 0
    while at < len(response) and response[at] != 0x12:  # field 2: resources
        length = response[at + 1]  # short strings all: one byte says how long
        found[response[at] >> 3] = response[at + 2 : at + 2 + length].decode()
        at += 2 + length
    return found[4], found[5]


def control_plane(size: int) -> None:
    """Be the control plane: with each line, first all resources, then one changed endpoint."""
    asyncio.run(_serve(size))


async def _serve(size: int) -> None:
    server, discovery = grpc.aio.server(), Discovery()
    discovery.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    snapshot = everything(1)  # so that all modules are imported
    number = 0
    while await asyncio.to_thread(sys.stdin.readline):
        snapshot = everything(size) if not number else changed(snapshot, number, size)
        for node in range(size):
            discovery.set(f"node-{node}", snapshot)
        number += 1
    await server.stop(None)


def everything(size: int) -> Snapshot:
    """Return `size` services with a cluster, an assignment and a virtual host each."""
    names = [f"service-{number}" for number in range(size)]
    hosts = [of.virtual_host(name, [name], [of.route(name)]) for name in names]
    manager = of.http_connection_manager("outbound", "outbound")
    return Snapshot.of(
        "1",
        {
            CDS: [of.cluster(name) for name in names],
            EDS: [of.assignment(name, endpoints(name, 0)) for name in names],
            LDS: [of.outbound_listener("outbound", "127.0.0.1", 15001, manager)],
            RDS: [of.route_configuration("outbound", hosts)],
        },
    )


def changed(snapshot: Snapshot, number: int, size: int) -> Snapshot:
    """Return a snapshot in which an instance of one service has another port."""
    name = f"service-{number % size}"
    return snapshot.updated(str(number), pack(EDS, of.assignment(name, endpoints(name, number))))


def endpoints(name: str, number: int) -> list[Endpoint]:
    """Return the instances of a service."""
    return [Endpoint(name, f"10.0.0.{one + 1}", 9080 + number) for one in range(INSTANCES)]


def draw(figures: list[Figures]) -> None:
    """Plot time and memory over N."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    sizes = [one.size for one in figures]
    figure, (times, memory) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    lines: list[tuple[str, Callable[[Figures], float]]] = [
        ("full push", lambda one: one.full_s),
        ("one endpoint, to all", lambda one: one.change_s),
    ]
    for label, read in lines:
        times.loglog(sizes, [read(one) for one in figures], "o-", label=label)
    times.set(xlabel="proxies, and services", ylabel="seconds", title="Time")
    times.legend()
    memory.loglog(sizes, [one.memory_bytes / 1e6 for one in figures], "o-", color="tab:green")
    memory.set(xlabel="proxies, and services", ylabel="MB", title="Memory of the control plane")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
