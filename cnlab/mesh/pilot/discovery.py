"""Aggregated discovery over gRPC: how the snapshots of a control plane come to its proxies.

    server = grpc.aio.server()
    discovery = Discovery()
    discovery.add_to(server)
    discovery.set("reviews-v1-0", snapshot)
    await discovery.settle(["reviews-v1-0"], timeout_s=5)

A `Stream` decides what each client gets; here are its gRPC edges. Everything runs on one event loop. A change
costs as much as it changes, times the streams that asked for it: snapshots are shared, differences are found
once, and a response is made by joining bytes that are there.

See: envoy/service/discovery/v3/ads.proto
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb

from cnlab.mesh.pilot.resources import SHORT
from cnlab.mesh.pilot.snapshot import Snapshot
from cnlab.mesh.pilot.stream import Stream
from cnlab.mesh.pilot.subscription import Ack, Request, Response

__all__ = ["Ack", "Discovery", "NodeStatus"]

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
Observer = Callable[[str, str], None]


@dataclass(eq=False, slots=True)
class _Connection:
    stream: Stream
    node: str = ""
    is_awake: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Where a node stands: one proxy, or one gRPC client."""

    node: str
    streams: int
    snapshot: str
    """The version that it is to have."""
    versions: dict[str, str]
    """The version it has accepted last, by type."""
    is_settled: bool
    refusals: tuple[Ack, ...]


class Discovery:
    """The ADS service: snapshots by node go in; ACKs, NACKs and the state of nodes come out.

    Args:
        log_size: how many ACKs and NACKs are kept.
        now: the time that they carry.
        observe: is told ("connected" or "disconnected", node) and ("pushed", "acked" or "rejected", type).
    """

    def __init__(
        self,
        *,
        log_size: int = 10_000,
        now: Callable[[], float] = time.time,
        observe: Observer = lambda event, about: None,
    ) -> None:
        self.log: deque[Ack] = deque(maxlen=log_size)
        self._now = now
        self._observe = observe
        self._snapshots: dict[str, Snapshot] = {}
        self._connections: dict[str, set[_Connection]] = {}
        self._versions: dict[str, dict[str, str]] = {}
        self._answered = asyncio.Event()

    @property
    def nacks(self) -> list[Ack]:
        """The NACKs in the log."""
        return [one for one in self.log if not one.is_ack]

    def add_to(self, server: grpc.aio.Server) -> None:
        """Offer the service on a gRPC server."""
        world = grpc.stream_stream_rpc_method_handler(self._world, pb.DiscoveryRequest.FromString)
        delta = grpc.stream_stream_rpc_method_handler(self._delta, pb.DeltaDiscoveryRequest.FromString)
        methods = {"StreamAggregatedResources": world, "DeltaAggregatedResources": delta}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    def set(self, node: str, snapshot: Snapshot) -> None:
        """Let a node have this from now on; its streams are told what differs."""
        self._snapshots[node] = snapshot
        for connection in self._connections.get(node, ()):
            connection.stream.update(snapshot)
            connection.is_awake.set()

    def remove(self, node: str) -> None:
        """Forget a node; a stream of it that is still open keeps what it has."""
        self._snapshots.pop(node, None)
        self._versions.pop(node, None)

    def snapshot(self, node: str) -> Snapshot | None:
        """Return what a node is to have."""
        return self._snapshots.get(node)

    def status(self) -> dict[str, NodeStatus]:
        """Return where each node stands, also those that have not connected or have no snapshot."""
        return {
            node: self._status(node) for node in sorted(self._snapshots.keys() | self._connections.keys())
        }

    def is_settled(self, node: str) -> bool:
        """Whether all streams of a node have what they are to have, or refused it; False without a stream."""
        streams = [one.stream for one in self._connections.get(node, ())]
        return bool(streams) and all(one.is_settled for one in streams)

    async def settle(self, nodes: Iterable[str], *, timeout_s: float) -> list[Ack]:
        """Wait until nodes have answered everything; return what they still refuse.

        One that is not there yet is waited for; one that goes away meanwhile is not.

        Raises:
            TimeoutError: some have not; the message names them.
        """
        nodes = list(nodes)
        present = {node for node in nodes if node in self._connections}

        def is_done(node: str) -> bool:
            return self.is_settled(node) or (node in present and node not in self._connections)

        try:
            async with asyncio.timeout(timeout_s):
                for node in nodes:
                    while not is_done(node):
                        await self._answered.wait()
        except TimeoutError:
            missing = [node for node in nodes if not is_done(node)]
            if missing:
                raise TimeoutError(f"no answer within {timeout_s:g} s from {', '.join(missing)}") from None
        streams = [one.stream for node in nodes for one in self._connections.get(node, ())]
        return [refusal for one in streams for refusal in one.refusals]

    def _status(self, node: str) -> NodeStatus:
        snapshot, connections = self._snapshots.get(node), self._connections.get(node, set())
        return NodeStatus(
            node,
            streams=len(connections),
            snapshot=snapshot.version if snapshot else "",
            versions=dict(self._versions.get(node, {})),
            is_settled=self.is_settled(node),
            refusals=tuple(refusal for one in connections for refusal in one.stream.refusals),
        )

    async def _world(self, requests: AsyncIterator[Any], context: Any) -> None:
        await self._serve(Stream(is_delta=False), requests, context)

    async def _delta(self, requests: AsyncIterator[Any], context: Any) -> None:
        await self._serve(Stream(is_delta=True), requests, context)

    async def _serve(self, stream: Stream, requests: AsyncIterator[Any], context: Any) -> None:
        """Write what there is to say whenever something has happened, until the client is gone."""
        connection = _Connection(stream)
        reading = asyncio.create_task(self._read(connection, requests, context))
        reading.add_done_callback(lambda _: connection.is_awake.set())
        encode = encode_delta if stream.is_delta else encode_world
        try:
            while not reading.done():
                connection.is_awake.clear()
                for response in list(stream.responses()):
                    await context.write(encode(response))
                    self._observe("pushed", SHORT[response.type_url])
                self._tell()
                await connection.is_awake.wait()
            await reading
        finally:
            reading.cancel()
            self._disconnect(connection)

    async def _read(self, connection: _Connection, requests: AsyncIterator[Any], context: Any) -> None:
        decode = decode_delta if connection.stream.is_delta else decode_world
        async for message in requests:
            if not connection.node:
                if not message.node.id:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first request has no node.id")
                self._connect(connection, message.node.id)
            answer = connection.stream.receive(decode(message), connection.node, self._now())
            if answer:
                self._record(answer)
            connection.is_awake.set()
            self._tell()

    def _connect(self, connection: _Connection, node: str) -> None:
        connection.node = node
        self._connections.setdefault(node, set()).add(connection)
        self._observe("connected", node)
        if snapshot := self._snapshots.get(node):
            connection.stream.update(snapshot)

    def _disconnect(self, connection: _Connection) -> None:
        if others := self._connections.get(connection.node):
            others.discard(connection)
            if not others:
                del self._connections[connection.node]
            self._observe("disconnected", connection.node)
        self._tell()

    def _record(self, answer: Ack) -> None:
        self.log.append(answer)
        if answer.is_ack:
            self._versions.setdefault(answer.node, {})[answer.type] = answer.version
        self._observe("acked" if answer.is_ack else "rejected", answer.type)

    def _tell(self) -> None:
        """Wake whoever waits in `settle`."""
        self._answered.set()
        self._answered = asyncio.Event()


def decode_world(message: Any) -> Request:
    """Read a DiscoveryRequest."""
    return Request(
        message.type_url,
        names=frozenset(message.resource_names),
        nonce=message.response_nonce,
        error=_error(message),
    )


def decode_delta(message: Any) -> Request:
    """Read a DeltaDiscoveryRequest."""
    return Request(
        message.type_url,
        subscribe=frozenset(message.resource_names_subscribe),
        unsubscribe=frozenset(message.resource_names_unsubscribe),
        nonce=message.response_nonce,
        error=_error(message),
        versions=dict(message.initial_resource_versions),
    )


def encode_world(response: Response) -> bytes:
    """Write a DiscoveryResponse."""
    head = pb.DiscoveryResponse(
        version_info=response.version, type_url=response.type_url, nonce=response.nonce
    )
    return b"".join((head.SerializeToString(), *(one.in_world for one in response.resources)))


def encode_delta(response: Response) -> bytes:
    """Write a DeltaDiscoveryResponse."""
    head = pb.DeltaDiscoveryResponse(
        system_version_info=response.version,
        type_url=response.type_url,
        nonce=response.nonce,
        removed_resources=response.removed,
    )
    return b"".join((head.SerializeToString(), *(one.in_delta for one in response.resources)))


def _error(message: Any) -> str:
    """Return why a client refuses a response; empty if it does not."""
    if not message.HasField("error_detail"):
        return ""
    return message.error_detail.message or f"code {message.error_detail.code}"
