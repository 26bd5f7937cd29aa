"""Names of containers: a DNS server that knows one network.

It answers for addresses (A) and their names (PTR), with a time to live of zero, since containers come and
go; it asks nobody else, so a name that it does not know does not exist. Docker's server at 127.0.0.11 does
the same, and passes on what is not its own.

A message, after a header of six 16-bit numbers, is questions and resource records; a name in it is labels,
each after its length, and a zero.

See: RFC 1035, section 4; resolv.conf(5).
"""

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

from cnlab.errors import InvalidValue

A, PTR, ANY_TYPE = 1, 12, 255
IN = 1
NOERROR, FORMERR, NXDOMAIN, NOTIMP = 0, 1, 3, 4
_RESPONSE, _AUTHORITATIVE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0100, 0x0080
_OPCODE = 0x7800
_HEADER = struct.Struct("!6H")  # id, flags, and how many questions, answers, authorities, additional records
_MAX_BYTES = 512  # of a datagram, for a resolver that promises no more
_NAME_OF_QUESTION = 0xC000 | _HEADER.size  # a pointer back to the name in the question

Lookup = Callable[[str], Sequence[IPv4Address]]
ReverseLookup = Callable[[IPv4Address], str | None]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a name in lower case, without the last dot, and the type of record."""

    name: str
    kind: int
    raw: bytes  # as it came, to be repeated in the answer


def parse_question(query: bytes) -> Question:
    """Read the one question of a query.

    Raises:
        InvalidValue: the message is broken, or has not one question.
    """
    try:
        questions = _HEADER.unpack_from(query)[2]
        labels, offset = [], _HEADER.size
        while length := query[offset]:
            label = query[offset + 1 : offset + 1 + length]
            if length > 63 or len(label) < length:
                raise InvalidValue("a label is too long")
            labels.append(label.decode("ascii").lower())
            offset += 1 + length
        kind, _ = struct.unpack_from("!2H", query, offset + 1)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise InvalidValue(f"this is no DNS query: {error}") from None
    if questions != 1:
        raise InvalidValue(f"a query has one question, not {questions}")
    return Question(".".join(labels), kind, query[_HEADER.size : offset + 5])


def answer(query: bytes, lookup: Lookup, reverse: ReverseLookup) -> bytes:
    """Return the answer to a query; what cannot be read is answered, too, with the code for that."""
    query_id, flags = struct.unpack_from("!2H", query.ljust(4, b"\0"))
    said = _RESPONSE | _AUTHORITATIVE | _RECURSION_AVAILABLE | flags & (_OPCODE | _RECURSION_DESIRED)
    try:
        question = parse_question(query)
    except InvalidValue:
        return _HEADER.pack(query_id, said | FORMERR, 0, 0, 0, 0)
    if flags & _OPCODE:
        return _HEADER.pack(query_id, said | NOTIMP, 0, 0, 0, 0)
    is_known, records = _records(question, lookup, reverse)
    code = NOERROR if is_known else NXDOMAIN
    size = _HEADER.size + len(question.raw)
    while size + sum(map(len, records)) > _MAX_BYTES:
        records.pop()
    header = _HEADER.pack(query_id, said | code, 1, len(records), 0, 0)
    return header + question.raw + b"".join(records)


def _records(question: Question, lookup: Lookup, reverse: ReverseLookup) -> tuple[bool, list[bytes]]:
    """Return whether the name exists, and its records of the type asked for."""
    address = _reversed_address(question.name)
    if address is not None:
        name = reverse(address)
        values = [] if name is None else [(PTR, _encode_name(name))]
    else:
        values = [(A, address.packed) for address in lookup(question.name)]
    wanted = [value for value in values if question.kind in (value[0], ANY_TYPE)]
    return bool(values), [
        struct.pack("!3HIH", _NAME_OF_QUESTION, kind, IN, 0, len(data)) + data for kind, data in wanted
    ]


def _reversed_address(name: str) -> IPv4Address | None:
    """Read ``2.0.89.10.in-addr.arpa`` as 10.89.0.2."""
    if not name.endswith(".in-addr.arpa"):
        return None
    with contextlib.suppress(ValueError):
        return IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split("."))))
    return None


def _encode_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


class NameServer:
    """Answers on UDP port 53 of `address` from entering the block to leaving it, in a thread of its own.

    Args:
        address: where to listen, in the network namespace of whoever enters the block.
        lookup: returns the addresses of a name in lower case; none if there is no such name.
        reverse: returns the name of an address, or None.
        port: where to listen.
    """

    def __init__(
        self, address: IPv4Address, *, lookup: Lookup, reverse: ReverseLookup, port: int = 53
    ) -> None:
        self._where = (str(address), port)
        self._lookup = lookup
        self._reverse = reverse

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind(self._where)
        except OSError as error:
            self._socket.close()
            raise OSError(
                error.errno, f"bind({':'.join(map(str, self._where))}/udp): {error.strerror}"
            ) from None
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._serve, name=f"dns {self._where[0]}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._socket.close()
        os.close(self._stop)

    def _serve(self) -> None:
        ready = select.poll()
        ready.register(self._socket, select.POLLIN)
        ready.register(self._stop, select.POLLIN)
        while self._stop not in dict(ready.poll()):
            with contextlib.suppress(OSError):  # a client that has gone; the next one still wants an answer
                query, client = self._socket.recvfrom(4096)
                self._socket.sendto(answer(query, self._lookup, self._reverse), client)
