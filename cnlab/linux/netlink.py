"""Netlink: messages of attributes, exchanged with the kernel over a datagram socket.

A message is a header, a fixed structure that depends on its type, and attributes, which may nest::

    struct nlmsghdr {           struct nlattr {
        __u32 nlmsg_len;            __u16 nla_len;   /* of header and value, without the padding */
        __u16 nlmsg_type;           __u16 nla_type;
        __u16 nlmsg_flags;      };
        __u32 nlmsg_seq;
        __u32 nlmsg_pid;
    };

Integers are in the processor's byte order; both are padded to multiples of four bytes.

See: netlink(7), the kernel's "Introduction to Netlink"; `rtnetlink` for what it is used for here.
"""

import contextlib
import errno
import os
import socket
import struct
from types import TracebackType
from typing import Self

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_ACK_TLVS = 0x200  # in an answer: the kernel says more about the error

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1
NLA_TYPE_MASK = 0x3FFF  # the two bits above say "nested" and "network byte order"

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i16x")  # struct nlmsgerr: an errno, and the header of the message it is about

Message = tuple[int, bytes]
"""A type, and what follows the header."""


def attribute(kind: int, value: bytes | str | int = b"") -> bytes:
    """Pack a ``struct nlattr``: bytes as they are, text with its final zero, a number as ``__u32``."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def parse_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Read the attributes that fill `data` from `offset` on."""
    found = {}
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4
    return found


def text(value: bytes) -> str:
    """Read an attribute's text."""
    return value.partition(b"\0")[0].decode(errors="replace")


def number(value: bytes) -> int:
    """Read an attribute's number, which may have one, two, four or eight bytes."""
    return int.from_bytes(value, "little" if struct.pack("=H", 1)[0] else "big")


def parse_messages(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Split a datagram into (type, flags, sequence number, body)."""
    found, offset = [], 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        found.append((kind, flags, sequence, data[offset + _HEADER.size : offset + length]))
        offset += max(length, _HEADER.size) + -length % 4
    return found


def parse_error(flags: int, body: bytes) -> tuple[int, str]:
    """Read an ``NLMSG_ERROR`` body: the errno, 0 in an acknowledgement, and what else the kernel says."""
    code = -_ERROR.unpack_from(body)[0]
    said = parse_attributes(body, _ERROR.size) if flags & NLM_F_ACK_TLVS else {}
    return code, text(said.get(NLMSGERR_ATTR_MSG, b""))


class NetlinkSocket:
    """A conversation with the kernel, in the network namespace where the calling thread is now."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        self._is_answered = True
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # do not send our message back with errors
        self._socket.bind((0, 0))

    def request(self, kind: int, body: bytes, flags: int = 0, *, call: str = "netlink") -> list[Message]:
        """Send one message and return what the kernel answers before it acknowledges.

        Raises:
            OSError: the kernel refused; the message begins with `call`.
        """
        if not self._is_answered:
            self._drain()
        self._is_answered = False
        self._sequence += 1
        flags |= NLM_F_REQUEST | NLM_F_ACK
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0)
        self._socket.send(header + body)
        answers: list[Message] = []
        while not self._is_answered:
            for kind, answer_flags, _, answer in parse_messages(self._socket.recv(1 << 17)):
                if answer_flags & NLM_F_DUMP_INTR:
                    raise InterruptedError(errno.EINTR, f"{call}: it changed while it was read")
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    self._is_answered = True
                if kind == NLMSG_ERROR:
                    _raise_for(*parse_error(answer_flags, answer), call)
                answers.append((kind, answer))
        return answers[:-1]

    def dump(self, kind: int, body: bytes, *, call: str = "netlink") -> list[Message]:
        """Ask for all objects of a kind; ask again if they changed meanwhile."""
        while True:
            with contextlib.suppress(InterruptedError):
                return self.request(kind, body, NLM_F_DUMP, call=call)

    def _drain(self) -> None:
        """Read the rest of an answer that nobody read to its end: the kernel begins no other before that."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1 << 17, socket.MSG_DONTWAIT)

    def close(self) -> None:
        """End the conversation."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _raise_for(code: int, said: str, call: str) -> None:
    if code:
        raise OSError(code, f"{call}: {os.strerror(code)}" + (f" ({said})" if said else ""))
