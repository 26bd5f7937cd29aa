"""Loopback addresses for everybody."""

from __future__ import annotations

import random
import socket

import pytest

from cnlab.apps.addresses import LoopbackNetwork, is_free
from cnlab.errors import CnlabError, InvalidValue


def test_network_lies_in_the_loopback_block():
    """Other addresses would need root, and could be somebody's."""
    assert LoopbackNetwork.choose().address(10).startswith("127.")


def test_two_choices_differ():
    """Two notebooks of one reader run at the same time."""
    assert LoopbackNetwork.choose() != LoopbackNetwork.choose()


def test_taken_network_is_not_chosen():
    """A program that listens on its first address has it."""
    first = LoopbackNetwork.choose(chance=random.Random(1))
    with socket.create_server((first.address(1), 9080)):
        second = LoopbackNetwork.choose(chance=random.Random(1))

    assert first != second


def test_port_that_is_taken_everywhere_is_named(monkeypatch):
    """A program on 0.0.0.0 takes the port of all addresses: a hint saves an hour."""
    monkeypatch.setattr("cnlab.apps.addresses.is_free", lambda address, port: False)

    with pytest.raises(CnlabError, match=r"no network with free ports 9080") as caught:
        LoopbackNetwork.choose()
    assert "listens on 0.0.0.0:9080" in caught.value.__notes__[0]


def test_port_in_use_is_not_free():
    """What `choose` believes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not is_free(*server.getsockname())


@pytest.mark.parametrize("host", [0, 255])
def test_host_beyond_the_network_is_refused(host):
    """255 is the broadcast address, 0 the network's own."""
    with pytest.raises(InvalidValue, match=rf"127\.1\.2\.{host}: expected a host of 1 to 254"):
        LoopbackNetwork("127.1.2").address(host)
