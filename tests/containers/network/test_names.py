import random
import socket
import struct
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Address

import netlab
import pytest

from cnlab.containers.network.names import PTR, A, NameServer, answer, parse_question
from cnlab.errors import InvalidValue

AAAA, ANY = 28, 255
WEB = IPv4Address("10.5.0.2")
KNOWN = {"web": [WEB], "many": [WEB + number for number in range(60)]}


def lookup(name: str) -> Sequence[IPv4Address]:
    return KNOWN.get(name, ())


def reverse(address: IPv4Address) -> str | None:
    return {WEB: "web"}.get(address)


def query(name: str, kind: int = A, *, flags: int = 0x0100, questions: int = 1) -> bytes:
    """A query as a resolver sends it."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 7, flags, questions, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


@pytest.mark.parametrize(
    ("message", "code", "answers"),
    [
        (query("web"), 0, 1),
        (query("WeB"), 0, 1),
        (query("web", AAAA), 0, 0),
        (query("web", ANY), 0, 1),
        (query("2.0.5.10.in-addr.arpa", PTR), 0, 1),
        (query("2.0.5.10.in-addr.arpa", A), 0, 0),
        (query("nobody"), 3, 0),
        (query("9.0.5.10.in-addr.arpa", PTR), 3, 0),
        (query("x.in-addr.arpa", PTR), 3, 0),
        (query("web", flags=0x2800), 4, 0),
        (query("web", questions=0), 1, 0),
        (query("web", questions=2), 1, 0),
        (query("web")[:-1], 1, 0),
        (query("web")[:14], 1, 0),
        (struct.pack("!2H", 7, 0x0100), 1, 0),
    ],
)
def test_every_query_is_answered_with_the_code_of_rfc_1035(message, code, answers):
    """A name that has no address of that family exists all the same: after NXDOMAIN nobody would ask on."""
    query_id, flags, _, count, _, _ = struct.unpack_from("!6H", answer(message, lookup, reverse))

    assert (query_id, flags >> 15, flags & 0xF, count) == (7, 1, code, answers)


def test_answer_fits_in_a_datagram():
    """Of 60 addresses as many as 512 bytes hold; a client needs one."""
    said = answer(query("many"), lookup, reverse)

    assert struct.unpack_from("!6H", said)[3] == 30
    assert len(said) <= 512


@pytest.mark.parametrize("seed", range(20))
def test_no_bytes_upset_the_server(seed):
    """Whoever is in the network can send it anything."""
    generator = random.Random(seed)
    message = bytearray(query("web"))
    for _ in range(generator.randrange(1, 8)):
        message[generator.randrange(len(message))] = generator.randrange(256)

    assert len(answer(bytes(message), lookup, reverse)) >= 12


def test_name_is_read_label_by_label():
    """A dot is no character of a name on the wire."""
    question = parse_question(query("web.net0"))

    assert (question.name, question.kind) == ("web.net0", A)


def test_pointer_in_a_question_is_refused():
    """It could point to itself; no resolver sends one."""
    with pytest.raises(InvalidValue, match="label"):
        parse_question(struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c" + bytes(200))


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("asked", "said"), [("web", "Address: 10.5.0.2"), ("10.5.0.2", "name = web"), ("nobody", "NXDOMAIN")]
)
def test_real_resolver_understands_the_answers(asked, said):
    """busybox, as in the smallest of images."""
    loopback = IPv4Address("127.0.0.1")
    with netlab.host(), NameServer(loopback, lookup=lookup, reverse=reverse):
        done = subprocess.run(["busybox", "nslookup", asked, "127.0.0.1"], capture_output=True, text=True)

    assert said in done.stdout


@pytest.mark.needs_root
def test_address_that_is_taken_is_said():
    """Another name server may run here already."""
    loopback = IPv4Address("127.0.0.1")
    with netlab.host(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 53))
        server = NameServer(loopback, lookup=lookup, reverse=reverse)
        with pytest.raises(OSError, match=r"bind\(127.0.0.1:53/udp\): Address already in use"):
            server.__enter__()
