"""The control plane: a process that tells sidecars what to do, and never touches a packet.

    python -m cnlab.mesh.control_plane.server SETTINGS.json

One gRPC server carries Pilot's discovery (ADS), Auth's secrets (SDS, on the same stream) and Mixer's
services: policy checks, rate limits, access logs, traces. An HTTP server beside it takes the configuration
(``PUT /config``) and answers questions; see `api`. Both listen on UNIX sockets in the mesh's private
directory: who may fetch a key is decided by who may open a file, as between Istio's agent and its Envoy.

What it is told it keeps in memory only: who wants something (the mesh in the notebook, as the Kubernetes API
would) tells it again after a restart. The authority's key lies in a file, so it is the same authority then.
Where instances listen it reads from a `Registry`: the list of those it was told of, or one that others fill.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc

from cnlab.mesh import traffic
from cnlab.mesh.auth.authority import CertificateAuthority, Identities
from cnlab.mesh.auth.mtls import sds_secrets
from cnlab.mesh.control_plane.bookkeeping import Bookkeeping
from cnlab.mesh.control_plane.wanted import Wanted
from cnlab.mesh.mixer.policy import Authorizer
from cnlab.mesh.mixer.quota import RateLimiter
from cnlab.mesh.mixer.telemetry import AccessLog
from cnlab.mesh.mixer.tracing import TraceStore
from cnlab.mesh.pilot import files
from cnlab.mesh.pilot.assembly import Assembler
from cnlab.mesh.pilot.bootstrap import CONTROL_PLANE
from cnlab.mesh.pilot.discovery import Ack, Discovery
from cnlab.mesh.pilot.registry import Registry, Service, StaticRegistry
from cnlab.mesh.pilot.resources import SDS, Json
from cnlab.mesh.pilot.snapshot import Snapshot
from cnlab.mesh.settings import ControlPlaneSettings

_LOG = logging.getLogger(__name__)


class ControlPlane:
    """Pilot, Auth and Mixer, used from one event loop.

    Args:
        settings: what does not change.
        registry: where instances listen; by default the workloads it is told of are all there is.
    """

    def __init__(self, settings: ControlPlaneSettings, registry: Registry | None = None) -> None:
        self.settings = settings
        self.books = Bookkeeping()
        self._told = StaticRegistry()
        self.registry: Registry = self._told if registry is None else registry
        self._served: Mapping[str, Service] = {}
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
                    with contextlib.suppress(TimeoutError):  # who refused, and why, is what counts
                        await self._change_to(before, timeout_s)
            return refusals

    async def rotate(self, service: str | None = None, *, timeout_s: float = 5.0) -> list[str]:
        """Give services new certificates now; return which."""
        async with self._changing:
            renewed = self.identities.rotate(service)
            await self._resend_secrets(renewed, timeout_s)
            return list(renewed)

    async def renew_certificates(self) -> None:
        """Give each service a new certificate when it is due, for ever; what fails is tried again."""
        failed: set[str] = set()
        while True:
            due = self.identities.next_renewal()
            await asyncio.sleep(1.0 if due is None or failed else min(max(due - time.time(), 0.05), 1.0))
            async with self._changing:
                try:
                    if renewed := failed.union(self.identities.renew_due()):
                        await self._resend_secrets(renewed, 0)
                    failed.clear()
                except Exception:
                    _LOG.exception("certificates could not be renewed; next try in a second")
                    failed.update(self.wanted.services.values() if self.wanted else ())

    async def follow_registry(self) -> None:
        """Send again what nodes are to have when others have changed the registry, for ever."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def note(_service: str) -> None:
            loop.call_soon_threadsafe(changed.set)

        with self.registry.subscribe(note):
            while True:
                await changed.wait()
                changed.clear()
                async with self._changing:
                    try:
                        await self._send_again()
                    except Exception:
                        _LOG.exception("the registry has changed, and nodes keep what they had")

    async def _send_again(self) -> None:
        if self.wanted is not None and self.registry.services() != self._served:
            snapshots = self._snapshots(self.wanted)
            self.version += 1
            await self._send(snapshots, 0)

    async def _change_to(self, wanted: Wanted, timeout_s: float) -> list[Ack]:
        self._told.replace(wanted.endpoints)
        try:
            snapshots = self._snapshots(wanted)
        except BaseException:
            self._told.replace(self.wanted.endpoints if self.wanted else ())
            raise
        # A new policy is there before a request is asked about, an old one until none is
        rego = (self.wanted.rego if self.wanted else {}) | wanted.rego
        await asyncio.to_thread(self.authorizer.replace, rego)  # each new one is tried, which takes a moment
        self.limiter.replace(wanted.limits)
        self.version += 1
        gone = set(self.wanted.services if self.wanted else ()) - set(wanted.services)
        self.wanted = wanted
        for node in gone:
            self.discovery.remove(node)
        refusals = await self._send(snapshots, timeout_s)
        self.authorizer.replace(wanted.rego)
        return refusals

    def _snapshots(self, wanted: Wanted) -> dict[str, Snapshot]:
        """Return what each node is to have; they are consistent, and nothing is sent yet."""
        services = self.registry.services()
        made = traffic.nodes(wanted.configuration, services, wanted.workloads, self.settings.surroundings)
        secrets = {service: self._secrets(service) for service in set(wanted.services.values())}
        version = str(self.version + 1)
        nodes = {node: {**one, SDS: secrets[wanted.services[node]]} for node, one in made.items()}
        snapshots = self._assembler.snapshots(version, nodes)
        for snapshot in snapshots.values():
            snapshot.check_consistent(elsewhere=(CONTROL_PLANE,))
        self._served = services
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


async def serve(settings: ControlPlaneSettings, registry: Registry | None = None) -> None:
    """Serve until the process, or the task, is ended."""
    from cnlab.mesh.control_plane import api

    plane = ControlPlane(settings, registry)
    server = grpc.aio.server()
    plane.add_to(server)
    server.add_insecure_port(f"unix:{settings.xds_socket}")
    await server.start()
    runners = await api.start(plane, settings)
    duties = [asyncio.create_task(one) for one in (plane.renew_certificates(), plane.follow_registry())]
    try:
        await server.wait_for_termination()
    finally:
        for duty in duties:
            duty.cancel()
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
