"""Loopback addresses for everybody."""

from __future__ import annotations

import socket

import pytest

from cnlab.apps.addresses import LoopbackNetwork, is_free, reserve
from cnlab.errors import InvalidValue


class Always:
    """Chance that is none."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = iter(numbers)

    def randint(self, first: int, last: int) -> int:
        return next(self._numbers)


def test_network_lies_in_the_loopback_block():
    """Other addresses would need root, and could be somebody's."""
    with reserve() as network:
        assert network.address(10).startswith("127.")


def test_reserved_network_is_nobody_elses():
    """Two notebooks of one reader run at the same time, and of two readers on one machine."""
    with reserve(chance=Always(77, 1)) as one, reserve(chance=Always(77, 1, 77, 2)) as two:
        assert ("127.77.1", "127.77.2") == (one.prefix, two.prefix)


def test_network_is_free_again_after_the_block():
    """Also if that ends with an error."""
    with pytest.raises(ZeroDivisionError), reserve(chance=Always(77, 3)):
        raise ZeroDivisionError
    with reserve(chance=Always(77, 3)) as again:
        assert "127.77.3" == again.prefix


def test_port_that_somebody_has_everywhere_is_found():
    """A program on 0.0.0.0 takes the port of all addresses; one on another address does not."""
    with (
        reserve() as network,
        socket.create_server(("0.0.0.0", 0)) as everywhere,
        socket.socket() as elsewhere,
    ):
        elsewhere.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in (elsewhere, everywhere)]

        assert ports[1] == network.taken(ports)
        assert network.taken(ports[:1]) is None


def test_port_in_use_is_not_free():
    """What all that look for a port believe."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not is_free(*server.getsockname())


def test_port_that_we_may_never_have_is_not_called_taken(monkeypatch):
    """Who looks for the program that listens there looks in vain."""

    def bind(self: socket.socket, address: tuple[str, int]) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(PermissionError, match=r"bind\(127\.0\.0\.1:80\): a port below 1024 is root's"):
        is_free("127.0.0.1", 80)


@pytest.mark.parametrize("host", [0, 255])
def test_host_beyond_the_network_is_refused(host):
    """255 is the broadcast address, 0 the network's own."""
    with pytest.raises(InvalidValue, match=rf"127\.1\.2\.{host}: expected a host of 1 to 254"):
        LoopbackNetwork("127.1.2").address(host)
