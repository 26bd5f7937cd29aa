"""The control plane: a process that tells sidecars what to do, and never touches a packet.

    python -m cnlab.mesh.control_plane SETTINGS.json

One gRPC server carries Pilot's discovery (ADS), Auth's secrets (SDS, on the same stream) and Mixer's
services: policy checks, rate limits, access logs, traces. An HTTP server beside it takes the configuration
(``PUT /config``) and answers questions; see `monitoring`. Both listen on UNIX sockets in the mesh's private
directory: who may fetch a key is decided by who may open a file, as between Istio's agent and its Envoy.

What it is told it keeps in memory only: who wants something (the mesh in the notebook, as the Kubernetes API
would) tells it again after a restart. The authority's key lies in a file, so it is the same authority then.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

from cnlab.mesh import files, traffic
from cnlab.mesh.assembly import Assembler
from cnlab.mesh.authority import CertificateAuthority, Identities
from cnlab.mesh.bookkeeping import Bookkeeping
from cnlab.mesh.bootstrap import CONTROL_PLANE
from cnlab.mesh.configuration import GATEWAY, Configuration, Workload
from cnlab.mesh.discovery import Ack, Discovery
from cnlab.mesh.mtls import sds_secrets
from cnlab.mesh.policy import Authorizer
from cnlab.mesh.quota import Limit, RateLimiter
from cnlab.mesh.registry import Endpoint, StaticRegistry
from cnlab.mesh.resources import SDS, Json
from cnlab.mesh.settings import ControlPlaneSettings
from cnlab.mesh.snapshot import Snapshot
from cnlab.mesh.telemetry import AccessLog
from cnlab.mesh.tracing import TraceStore


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for last: the configuration, and which instances there are."""

    configuration: Configuration
    workloads: tuple[Workload, ...]

    @classmethod
    def from_dict(cls, data: Json) -> Self:
        """Read the body of ``PUT /config``."""
        workloads = tuple(Workload(**one) for one in data["workloads"])
        return cls(Configuration.from_dict(data["configuration"]), workloads)

    @property
    def endpoints(self) -> Iterator[Endpoint]:
        """The instances that may get requests."""
        for one in self.workloads:
            if one.is_ready:
                labels = {"version": one.version}
                yield Endpoint(one.service, one.address, self.configuration.port, labels)

    @property
    def services(self) -> dict[str, str]:
        """The service of each node, which is its identity."""
        return {one.name: one.service for one in self.workloads} | {GATEWAY: GATEWAY}

    @property
    def rego(self) -> dict[str, str]:
        """The policies by service."""
        return {name: one.rego for name, one in self.configuration.settings.items() if one.rego}

    @property
    def limits(self) -> dict[str, Limit]:
        """The rate limits by service."""
        settings = self.configuration.settings.items()
        return {name: Limit(**one.rate_limit) for name, one in settings if one.rate_limit}


class ControlPlane:
    """Pilot, Auth and Mixer, used from one event loop."""

    def __init__(self, settings: ControlPlaneSettings) -> None:
        self.settings = settings
        self.books = Bookkeeping()
        self.registry = StaticRegistry()
        self.discovery = Discovery(observe=self.books.observe)
        self.authority = CertificateAuthority.open(Path(settings.directory) / "authority")
        self.identities = Identities(self.authority, ttl_s=settings.certificate_ttl_s)
        self.authorizer = Authorizer()
        self.limiter = RateLimiter()
        self.access_log = AccessLog()
        self.traces = TraceStore()
        self.wanted: Wanted | None = None
        self._assembler = Assembler()
        self.version = 0
        self._changing = asyncio.Lock()

    def add_to(self, server: Any) -> None:
        """Mount all services on a gRPC server."""
        for servicer in (self.discovery, self.authorizer, self.limiter, self.access_log, self.traces):
            servicer.add_to(server)

    async def configure(self, wanted: Wanted, *, timeout_s: float) -> list[Ack]:
        """Make it so: build and check all snapshots, send them, and wait for the answer of each node.

        Where a node refuses, or does not answer, all go back to what they had; a `timeout_s` of 0 waits for
        nothing and leaves all as it is.

        Returns:
            The refusals.

        Raises:
            InvalidValue: a resource or policy is wrong; nothing has changed.
            TimeoutError: nodes have not answered.
        """
        async with self._changing:
            before, begun = self.wanted, time.monotonic()
            try:
                refusals = await self._change_to(wanted, timeout_s)
            except TimeoutError:
                if before is not None:
                    await self._change_to(before, 0)
                raise
            if timeout_s:
                self.books.metrics.converged(time.monotonic() - begun)
                if refusals and before is not None:
                    await self._change_to(before, timeout_s)
            return refusals

    async def rotate(self, service: str | None = None, *, timeout_s: float = 5.0) -> list[str]:
        """Give services new certificates now; return which."""
        async with self._changing:
            renewed = self.identities.rotate(service)
            await self._resend_secrets(renewed, timeout_s)
            return list(renewed)

    async def renew_certificates(self) -> None:
        """Give each service a new certificate when it is due, for ever."""
        while True:
            due = self.identities.next_renewal()
            await asyncio.sleep(1.0 if due is None else min(max(due - time.time(), 0.05), 1.0))
            async with self._changing:
                if renewed := self.identities.renew_due():
                    await self._resend_secrets(renewed, 0)

    async def _change_to(self, wanted: Wanted, timeout_s: float) -> list[Ack]:
        endpoints = list(wanted.endpoints)
        snapshots = self._snapshots(wanted, endpoints)
        # A new policy is there before a request is asked about, an old one until none is
        self.authorizer.replace((self.wanted.rego if self.wanted else {}) | wanted.rego)
        self.limiter.replace(wanted.limits)
        self.registry.replace(endpoints)
        self.version += 1
        gone = set(self.wanted.services if self.wanted else ()) - set(wanted.services)
        self.wanted = wanted
        for node in gone:
            self.discovery.remove(node)
        refusals = await self._send(snapshots, timeout_s)
        self.authorizer.replace(wanted.rego)
        return refusals

    def _snapshots(self, wanted: Wanted, endpoints: list[Endpoint]) -> dict[str, Snapshot]:
        """Return what each node is to have; they are consistent, and nothing is changed yet."""
        services = StaticRegistry(endpoints).services()
        made = traffic.nodes(wanted.configuration, services, wanted.workloads, self.settings.surroundings)
        secrets = {service: self._secrets(service) for service in set(wanted.services.values())}
        version = str(self.version + 1)
        nodes = {node: {**one, SDS: secrets[wanted.services[node]]} for node, one in made.items()}
        snapshots = self._assembler.snapshots(version, nodes)
        for snapshot in snapshots.values():
            snapshot.check_consistent(elsewhere=(CONTROL_PLANE,))
        return snapshots

    def _secrets(self, service: str) -> list[Json]:
        svid = self.identities.svid(service)
        self.books.issued(svid.serial_number)
        return sds_secrets(svid, self.authority.bundle)

    async def _resend_secrets(self, services: Collection[str], timeout_s: float) -> None:
        if self.wanted is None:
            return
        self.version += 1
        made = {}
        for node, service in self.wanted.services.items():
            snapshot = self.discovery.snapshot(node)
            if service in services and snapshot is not None:
                others = {kind: one for kind, one in snapshot.resources.items() if kind != SDS}
                fresh = Snapshot.of(str(self.version), {SDS: self._secrets(service)})
                made[node] = Snapshot(str(self.version), {**others, **fresh.resources})
        await self._send(made, timeout_s)

    async def _send(self, snapshots: dict[str, Snapshot], timeout_s: float) -> list[Ack]:
        for node, snapshot in snapshots.items():
            self.discovery.set(node, snapshot)
            if self.settings.discovery == "files":
                files.write(Path(self.settings.directory) / "xds" / node, snapshot)
        if not timeout_s:
            return []
        return await self.discovery.settle(self._connected(snapshots), timeout_s=timeout_s)

    def _connected(self, nodes: Iterable[str]) -> list[str]:
        status = self.discovery.status()
        return [node for node in nodes if node in status and status[node].streams]


async def serve(settings: ControlPlaneSettings) -> None:
    """Serve until the process is ended."""
    from cnlab.mesh import monitoring

    plane = ControlPlane(settings)
    server = grpc.aio.server()
    plane.add_to(server)
    server.add_insecure_port(f"unix:{settings.xds_socket}")
    await server.start()
    runners = await monitoring.start(plane, settings)
    renewal = asyncio.create_task(plane.renew_certificates())
    try:
        await server.wait_for_termination()
    finally:
        renewal.cancel()
        for runner in runners:
            await runner.cleanup()
        await server.stop(None)


def main(argv: list[str]) -> None:
    """Run the process that a mesh starts."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.basicConfig(level=logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(ControlPlaneSettings.read(Path(argv[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
