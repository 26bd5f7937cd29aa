import errno
import struct
from typing import NoReturn

import pytest

from cnlab.linux import netlink
from cnlab.linux.netlink import (
    NetlinkSocket,
    attribute,
    number,
    parse_attributes,
    parse_error,
    parse_messages,
)
from cnlab.linux.netns import NetNs
from cnlab.linux.rtnetlink import Rtnetlink

# What Linux 6.18, built without them, answered when it was asked for a dummy link.
REFUSED = bytes.fromhex(
    "3c000000020000030100000075280000"  # 60 bytes, NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS
    "a1ffffff40000000100005060100000000000000"  # -95, and the header of the request
    "18000100556e6b6e6f776e20646576696365207479706500"  # NLMSGERR_ATTR_MSG
)


def test_attribute_is_padded_but_its_length_is_not():
    """The kernel rounds up to four bytes when it looks for the next one."""
    assert attribute(3, "lo") == struct.pack("=HH3s1x", 7, 3, b"lo\0")


def test_attributes_are_read_as_they_were_packed():
    """Whatever their lengths, and nested too."""
    inner = attribute(1, "veth") + attribute(2, b"")
    packed = attribute(4, 1500) + attribute(18, inner) + attribute(3, "a")

    found = parse_attributes(packed)

    assert found == {4: struct.pack("=I", 1500), 18: inner, 3: b"a\0"}
    assert parse_attributes(found[18]) == {1: b"veth\0", 2: b""}


def test_flags_in_the_type_are_no_part_of_it():
    """Newer kernels mark nested attributes; older ones do not."""
    nested = 0x8000

    assert parse_attributes(attribute(18 | nested, b"abcd")) == {18: b"abcd"}


@pytest.mark.parametrize("end", range(1, 8))
def test_attribute_cut_short_ends_the_reading(end):
    """A parser of the kernel's bytes must not loop or fail on fewer of them."""
    whole = attribute(4, 1500)

    assert set(parse_attributes((whole + whole)[: len(whole) + end])) == {4}


def test_numbers_of_any_size_are_read():
    """The operational state is one byte, a VXLAN port two, an index four."""
    assert [number(struct.pack(f"={size}", 7)) for size in "BHIQ"] == [7, 7, 7, 7]


def test_extended_acknowledgement_says_what_errno_does_not():
    """ "Operation not supported" alone leaves the reader guessing."""
    ((kind, flags, sequence, body),) = parse_messages(REFUSED)

    assert (kind, sequence) == (netlink.NLMSG_ERROR, 1)
    assert parse_error(flags, body) == (errno.EOPNOTSUPP, "Unknown device type")


def test_several_messages_in_one_datagram_are_told_apart():
    """A dump packs as many as fit."""
    message = struct.pack("=IHHII", 19, 16, 2, 7, 0) + b"abc" + b"\0"

    assert parse_messages(message * 2) == [(16, 2, 7, b"abc")] * 2


def test_error_of_the_kernel_names_the_call():
    """An errno without its call would be one more thing to look up."""
    with NetlinkSocket() as netlink_socket, pytest.raises(OSError, match=r"^\[Errno 95\] hello: ") as caught:
        netlink_socket.request(4000, b"", call="hello")  # no such type of message

    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.needs_root
def test_conversation_goes_on_after_an_interrupted_answer(monkeypatch):
    """A cell that is stopped while it reads a long answer must not spoil the next one."""

    def stopped(data: bytes) -> NoReturn:
        raise KeyboardInterrupt

    with NetNs.create() as namespace, Rtnetlink(namespace) as ip:
        for number in range(1, 1001):
            ip.add_address("lo", f"10.0.{number // 256}.{number % 256}/32")
        with monkeypatch.context() as patch:
            patch.setattr(netlink, "parse_messages", stopped)
            with pytest.raises(KeyboardInterrupt):
                ip.addresses()

        assert [link.name for link in ip.links()] == ["lo"]
