"""A discovery server in a thread, for a notebook or a test that writes its resources by hand.

    with DiscoveryServer() as server, Proxy("demo", bootstrap(..., control_plane=server.address)):
        refused = server.serve("demo", {CDS: [...], LDS: [...]})

The mesh itself has a process for this, `control_plane`, which can be killed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Self, TypeVar

import grpc

from cnlab.mesh.pilot.discovery import Ack, Discovery, NodeStatus
from cnlab.mesh.pilot.snapshot import Snapshot

T = TypeVar("T")


class DiscoveryServer:
    """Serves snapshots by node until the end of the block; `log` keeps the ACKs and NACKs."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.address = (host, port)
        """Where it listens; a port 0 becomes the one that the kernel chose."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="discovery", daemon=True)
        self._version = 0

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._run(self._start())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._server.stop(0))
        self._end_loop()

    @property
    def log(self) -> list[Ack]:
        """All ACKs and NACKs, oldest first."""
        return list(self._discovery.log)

    def status(self) -> dict[str, NodeStatus]:
        """Return where each node stands."""

        async def ask() -> dict[str, NodeStatus]:
            return self._discovery.status()

        return self._run(ask())

    def serve(self, node: str, resources: Mapping[str, Iterable[Mapping[str, Any]]] | Snapshot) -> Snapshot:
        """Let a node have these from now on: dicts by type URL, or a snapshot.

        Raises:
            InvalidResource: a field is wrong.
            Inconsistent: something names a resource that is not there.
        """
        if not isinstance(resources, Snapshot):
            self._version += 1
            resources = Snapshot.of(str(self._version), resources)
            resources.check_consistent()
        snapshot = resources

        async def hand_over() -> None:
            self._discovery.set(node, snapshot)

        self._run(hand_over())
        return snapshot

    def settle(self, *nodes: str, timeout_s: float = 10.0) -> list[Ack]:
        """Wait until nodes have answered everything; return what they still refuse.

        Raises:
            TimeoutError: some have not.
        """
        return self._run(self._discovery.settle(nodes, timeout_s=timeout_s))

    async def _start(self) -> None:
        self._server, self._discovery = grpc.aio.server(), Discovery()
        self._discovery.add_to(self._server)
        host, port = self.address
        try:
            port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(f"bind({host}:{port}): {error}") from None
        self.address = (host, port)
        await self._server.start()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._run(_let_tasks_end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _let_tasks_end() -> None:
    """Give what gRPC has cancelled the time to notice."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
