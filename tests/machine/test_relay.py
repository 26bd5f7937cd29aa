"""The relay, both sides in one process over a socketpair: what crosses, in which order, and what cannot block
what."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cnlab.clock import wait_until
from cnlab.machine.relay import MTU, WINDOW, Relay


class Sides:
    """A host's relay that listens on `address`, and a guest's relay whose port is `port`."""

    def __init__(self) -> None:
        host_packets, guest_packets = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.messages: list[dict[str, Any]] = []
        self.port = socket.create_server(("127.0.0.1", 0))
        self.is_port_ready = True
        self.guest = Relay(guest_packets, on_message=self.messages.append, connect=self._connect)
        self.host = Relay(host_packets, on_message=self.messages.append)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host.listen(self._listener, "shell")
        self._sockets = [self.port, self._listener]

    def _connect(self, name: str) -> socket.socket | None:
        assert name == "shell"
        return self._kept(socket.create_connection(self.port.getsockname())) if self.is_port_ready else None

    def client(self) -> socket.socket:
        client = self._kept(socket.create_connection(self._listener.getsockname()))
        client.setblocking(False)
        return client

    def server(self) -> socket.socket:
        """The far end of the connection that came out of the relay."""
        self.port.setblocking(False)
        accepted: list[socket.socket] = []

        def accept() -> bool:
            try:
                accepted.append(self.port.accept()[0])
            except BlockingIOError:
                return False
            return True

        self.until(accept)
        accepted[0].setblocking(False)
        return self._kept(accepted[0])

    def until(self, condition: Callable[[], bool]) -> None:
        """Let both sides work until `condition` holds."""

        def work() -> bool:
            self.host.run_once(0)
            self.guest.run_once(0)
            return condition()

        wait_until(work, timeout_s=60, poll_s=0, what="the relay to come to it")

    def receive(self, connection: socket.socket, size: int) -> bytes:
        received = bytearray()

        def more() -> bool:
            try:
                data = connection.recv(1 << 20)
            except BlockingIOError:
                return False
            received.extend(data)
            return len(received) >= size or not data

        self.until(more)
        return bytes(received)

    def send(self, connection: socket.socket, data: bytes) -> None:
        left = memoryview(data)

        def sent() -> bool:
            nonlocal left
            with contextlib.suppress(BlockingIOError):
                left = left[connection.send(left) :]
            return not left

        self.until(sent)

    def _kept(self, connection: socket.socket) -> socket.socket:
        self._sockets.append(connection)
        return connection

    def close(self) -> None:
        for relay in (self.host, self.guest):
            relay.close()
        for each in self._sockets:
            each.close()


@pytest.fixture
def sides() -> Iterator[Sides]:
    sides = Sides()
    yield sides
    sides.close()


def test_bytes_cross_in_order_both_ways(sides: Sides) -> None:
    client = sides.client()
    server = sides.server()
    request, reply = bytes(range(256)) * 40, b"reply" * 3000

    sides.send(client, request)
    assert sides.receive(server, len(request)) == request
    sides.send(server, reply)
    assert sides.receive(client, len(reply)) == reply


def test_what_is_sent_before_the_port_listens_arrives_when_it_does(sides: Sides) -> None:
    """A front end connects as soon as it knows the ports; the kernel binds them a second later."""
    sides.is_port_ready = False
    client = sides.client()
    client.send(b"kernel_info_request")
    for _ in range(20):
        sides.host.run_once(0)
        sides.guest.run_once(0)
    sides.is_port_ready = True

    assert sides.receive(sides.server(), 19) == b"kernel_info_request"


def test_a_stalled_reader_stalls_its_own_stream_only(sides: Sides) -> None:
    """A browser that reads no output must not keep an interrupt from getting through."""
    stalled = sides.client()
    sides.server()
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 64 * WINDOW:
            sent += stalled.send(bytes(1 << 16))
            sides.host.run_once(0)
            sides.guest.run_once(0)
    other = sides.client()
    other_server = sides.server()
    sides.send(other, b"interrupt")

    assert sides.receive(other_server, 9) == b"interrupt"
    assert sent < 64 * WINDOW


def test_many_windows_cross_a_stream(sides: Sides) -> None:
    """Credit comes back as the reader reads."""
    client = sides.client()
    server = sides.server()
    data = bytes(range(251)) * (5 * WINDOW // 251)
    received = bytearray()
    left = memoryview(data)

    def step() -> bool:
        nonlocal left
        with contextlib.suppress(BlockingIOError):
            left = left[client.send(left[: 1 << 16]) :] if left else left
        with contextlib.suppress(BlockingIOError):
            received.extend(server.recv(1 << 16))
        return len(received) == len(data)

    sides.until(step)
    assert bytes(received) == data


def test_closing_one_end_closes_the_other_after_the_last_byte(sides: Sides) -> None:
    client = sides.client()
    server = sides.server()
    sides.send(client, b"last words")
    client.close()

    assert sides.receive(server, 1 << 20) == b"last words"
    assert server.recv(1) == b""


def test_a_message_may_be_longer_than_a_packet(sides: Sides) -> None:
    """An environment of a hundred kilobytes is not rare on a cluster."""
    message = {"type": "kernel", "env": {"LONG": "x" * 30 * MTU}}
    sides.host.send_message(message)
    sides.until(lambda: bool(sides.messages))

    assert sides.messages == [message]


def test_packets_of_others_are_passed_over(sides: Sides) -> None:
    """The guest's kernel sends packets of its own on the device, IPv6 neighbour discovery for one."""
    foreign = b"\xff" * 6 + b"\x02" * 6 + b"\x86\xdd" + bytes(60)
    sides.guest._packets.send(foreign)
    sides.guest.send_message({"type": "hello"})
    sides.until(lambda: bool(sides.messages))

    assert sides.messages == [{"type": "hello"}]
