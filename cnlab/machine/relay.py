"""Many byte streams over one packet socket: how a kernel's messages cross between host and guest.

Both sides run the same `Relay`. On the host its packet socket is one end of a socketpair; User-Mode Linux has
the other end as its network device ``vec0``, on which the guest's relay opens a packet socket. Each packet is
one Ethernet frame::

    destination, source (6 bytes each) | 0x88b5 | kind (1 byte) | stream (4 bytes) | payload

Packets keep their order. None is lost as long as no more are under way than the sockets can hold, so each
stream has a *window*: it sends no more than the other side has said it can take. A stalled reader stalls its
own stream only.

Interface: `Relay.listen`, `Relay.carry` or the `connect` function bring streams, `Relay.send_message` and
`on_message` carry JSON beside them; the caller runs `run_once` for ever. Standard library only: the guest
imports this as process 1.

See: packet(7); IEEE Std 802, local experimental EtherTypes; "Vector network devices" in the kernel's UML
guide.
"""

import errno
import json
import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

ETHERTYPE = 0x88B5
MTU = (
    3584  # bytes; a packet and its bookkeeping fit one page, which a guest short of memory can still allocate
)
WINDOW = 1 << 20  # bytes one stream may have under way in one direction

_HEADER = struct.Struct("!6s6sHBI")
_MAX_PAYLOAD = MTU + 14 - _HEADER.size
_CHUNK = 1 << 16  # bytes read from a stream at a time
_BURST = 256  # packets taken in one go, before the streams get their turn
_RETRY_S = 0.01
_BROADCAST, _SOURCE = b"\xff" * 6, b"\x02cnlab"


class Kind(IntEnum):
    """What a packet means."""

    OPEN = 1  # payload: the name of the port that the other side shall connect to
    DATA = 2
    CREDIT = 3  # payload: four bytes, how many more bytes may be sent
    CLOSE = 4
    MESSAGE = 5  # payload: part of a line of JSON


@dataclass(slots=True, eq=False)
class _Stream:
    """One connection of ours and its twin on the other side."""

    number: int
    socket: socket.socket | None  # None while the port does not accept yet
    name: str = ""
    outgoing: bytearray = field(
        default_factory=bytearray
    )  # from the other side, not yet written to the socket
    credit: int = WINDOW  # bytes we may still send
    delivered: int = 0  # bytes written to the socket that the other side has not been told of
    is_closing: bool = False  # the other side has closed: write what is left, then close


class Relay:
    """One side of the relay; not thread-safe, all work happens in `run_once`.

    Args:
        packets: the packet socket, already bound or paired.
        on_message: called with each JSON object that the other side sent.
        connect: makes the connection for a port name; returns None while nobody listens there.
    """

    def __init__(
        self,
        packets: socket.socket,
        *,
        on_message: Callable[[dict[str, Any]], None],
        connect: Callable[[str], socket.socket | None] = lambda name: None,
    ) -> None:
        self.selector = selectors.DefaultSelector()
        self.is_open = True
        self._packets = packets
        self._on_message = on_message
        self._connect = connect
        self._streams: dict[int, _Stream] = {}
        self._next_number = 1
        self._queue: deque[bytes] = deque()
        self._line = bytearray()
        packets.setblocking(False)
        self.selector.register(packets, selectors.EVENT_READ, self._packets_ready)

    def watch(self, file: Any, callback: Callable[[], object]) -> None:
        """Call `callback` from `run_once` whenever `file` is readable."""
        self.selector.register(file, selectors.EVENT_READ, lambda mask: callback())

    def listen(self, listener: socket.socket, name: str) -> None:
        """Carry every connection that `listener` accepts to the port `name` of the other side."""
        listener.setblocking(False)
        self.watch(listener, lambda: self._accept(listener, name))

    def carry(self, connection: socket.socket, name: str) -> None:
        """Carry a connected stream socket to the port `name` of the other side; it is ours from now on."""
        number, self._next_number = self._next_number, self._next_number + 1
        self._send(Kind.OPEN, number, name.encode())
        self._start(_Stream(number, None), connection)

    def send_message(self, message: dict[str, Any]) -> None:
        """Send a JSON object to the other side's `on_message`."""
        line = json.dumps(message).encode() + b"\n"
        for start in range(0, len(line), _MAX_PAYLOAD):
            self._send(Kind.MESSAGE, 0, line[start : start + _MAX_PAYLOAD])

    def run_once(self, timeout_s: float | None = None) -> None:
        """Wait until something can be moved, at most `timeout_s` seconds, and move it."""
        waiting = [stream for stream in self._streams.values() if stream.socket is None]
        if waiting:
            timeout_s = min(_RETRY_S, timeout_s if timeout_s is not None else _RETRY_S)
        for key, mask in self.selector.select(timeout_s):
            key.data(mask)
        for stream in waiting:
            self._try_connect(stream)

    def flush(self, timeout_s: float = 1.0) -> None:
        """Wait until the queued packets have left, at most `timeout_s` seconds for each."""
        while self._queue and self.is_open:
            if not self._wait_writable(timeout_s):
                return
            self._send_queued()

    def close(self) -> None:
        """Close every stream and the packet socket; listeners stay the caller's."""
        for stream in self._streams.values():
            if stream.socket is not None:
                stream.socket.close()
        self._streams.clear()
        self.is_open = False
        self._packets.close()
        self.selector.close()

    def _wait_writable(self, timeout_s: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._packets, selectors.EVENT_WRITE)
            return bool(selector.select(timeout_s))

    def _send(self, kind: Kind, number: int, payload: bytes | memoryview = b"") -> None:
        self._queue.append(_HEADER.pack(_BROADCAST, _SOURCE, ETHERTYPE, kind, number) + payload)
        if len(self._queue) == 1:
            self._send_queued()

    def _send_queued(self) -> None:
        try:
            while self._queue:
                self._packets.send(self._queue[0])
                self._queue.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                self._link_lost()
                return
        self._watch_packets()

    def _watch_packets(self) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._queue else 0)
        if self.selector.get_key(self._packets).events != events:
            self.selector.modify(self._packets, events, self._packets_ready)

    def _link_lost(self) -> None:
        """The other side is gone; streams are left to the caller, who ends."""
        if self.is_open:
            self.is_open = False
            self._queue.clear()
            self.selector.unregister(self._packets)

    def _packets_ready(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._send_queued()
        if mask & selectors.EVENT_READ and self.is_open:
            self._receive_burst()

    def _receive_burst(self) -> None:
        touched = set()
        for _ in range(_BURST):
            try:
                packet = self._packets.recv(MTU + 14)
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if not packet:
                self._link_lost()
                break
            touched.add(self._handle(packet))
        for number in touched:
            if stream := self._streams.get(number):
                self._write(stream)

    def _handle(self, packet: bytes) -> int:
        """Act on one packet; return the number of the stream that has something to write now."""
        ethertype: int
        number: int
        _, _, ethertype, kind, number = _HEADER.unpack_from(packet)
        if ethertype != ETHERTYPE:
            return 0
        payload = packet[_HEADER.size :]
        stream = self._streams.get(number)
        if kind == Kind.MESSAGE:
            self._receive_line(payload)
        elif kind == Kind.OPEN:
            self._streams[number] = _Stream(number, None, payload.decode())
        elif stream is None:
            pass  # we have closed it, the other side does not know yet
        elif kind == Kind.DATA:
            stream.outgoing += payload
        elif kind == Kind.CREDIT:
            stream.credit += int.from_bytes(payload, "big")
            self._watch(stream)
        elif kind == Kind.CLOSE:
            stream.is_closing = True
        return number

    def _receive_line(self, payload: bytes) -> None:
        self._line += payload
        while (end := self._line.find(b"\n")) >= 0:
            message = json.loads(self._line[:end])
            del self._line[: end + 1]
            self._on_message(message)

    def _accept(self, listener: socket.socket, name: str) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # given up between the wake-up and now
            return
        self.carry(connection, name)

    def _try_connect(self, stream: _Stream) -> None:
        if connection := self._connect(stream.name):
            self._start(stream, connection)
            self._write(stream)
        elif stream.is_closing:
            del self._streams[stream.number]

    def _start(self, stream: _Stream, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.socket = connection
        self._streams[stream.number] = stream
        self._watch(stream)

    def _watch(self, stream: _Stream) -> None:
        """Read only what the other side can take, wake for writing only when there is something to write."""
        if stream.socket is None:
            return
        events = selectors.EVENT_READ if stream.credit > 0 and not stream.is_closing else 0
        events |= selectors.EVENT_WRITE if stream.outgoing else 0
        key = self.selector.get_map().get(stream.socket)
        if key is None:
            if events:
                self.selector.register(stream.socket, events, lambda mask: self._stream_ready(stream, mask))
        elif not events:
            self.selector.unregister(stream.socket)
        elif key.events != events:
            self.selector.modify(stream.socket, events, key.data)

    def _stream_ready(self, stream: _Stream, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._write(stream)
        if mask & selectors.EVENT_READ and stream.number in self._streams:
            self._read(stream)

    def _read(self, stream: _Stream) -> None:
        assert stream.socket is not None
        try:
            data = stream.socket.recv(min(_CHUNK, stream.credit))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(stream)
            return
        view = memoryview(data)
        for start in range(0, len(data), _MAX_PAYLOAD):
            self._send(Kind.DATA, stream.number, view[start : start + _MAX_PAYLOAD])
        stream.credit -= len(data)
        self._watch(stream)

    def _write(self, stream: _Stream) -> None:
        if stream.socket is None:
            return
        try:
            while stream.outgoing:
                sent = stream.socket.send(stream.outgoing)
                del stream.outgoing[:sent]
                stream.delivered += sent
        except BlockingIOError:
            pass
        except OSError:
            self._close(stream)
            return
        if stream.delivered >= WINDOW // 4:
            self._send(Kind.CREDIT, stream.number, stream.delivered.to_bytes(4, "big"))
            stream.delivered = 0
        if stream.is_closing and not stream.outgoing:
            self._close(stream, tell=False)
        else:
            self._watch(stream)

    def _close(self, stream: _Stream, *, tell: bool = True) -> None:
        del self._streams[stream.number]
        if stream.socket is not None:
            if stream.socket in self.selector.get_map():
                self.selector.unregister(stream.socket)
            stream.socket.close()
        if tell:
            self._send(Kind.CLOSE, stream.number)
