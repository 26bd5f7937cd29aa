import socket

import pytest

from cnlab.containers.network.ports import PortMapping, parse_ports, reserved
from cnlab.errors import InvalidValue


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        (None, ()),
        ({"80/tcp": 8080}, (PortMapping(80, 8080),)),
        ({"80": "8080"}, (PortMapping(80, 8080),)),
        ({80: 8080}, (PortMapping(80, 8080),)),
        ({"53/udp": 53}, (PortMapping(53, 53, "udp"),)),
        ({80: None}, (PortMapping(80, 0),)),
        ({80: ("127.0.0.1", 8080)}, (PortMapping(80, 8080, "tcp", "127.0.0.1"),)),
        ({80: ("127.0.0.1",)}, (PortMapping(80, 0, "tcp", "127.0.0.1"),)),
        ({80: [8080, 8081]}, (PortMapping(80, 8080), PortMapping(80, 8081))),
    ],
)
def test_ports_are_read_as_the_docker_sdk_means_them(ports, expected):
    """Its documentation lists these forms; who knows them need not learn others."""
    assert parse_ports(ports) == expected


@pytest.mark.parametrize(
    "ports",
    [
        {"http": 80},
        {"80/": 80},
        {"80/sctp": 80},
        {0: 80},
        {65536: 80},
        {80: -1},
        {80: "web"},
        {80: ("localhost", 80)},
    ],
)
def test_what_is_no_port_is_refused(ports):
    """Before a rule is written that would match nothing, or everything."""
    with pytest.raises(InvalidValue):
        parse_ports(ports)


def test_free_port_is_chosen_and_held():
    """Nobody else shall be given it while the container lives."""
    with (
        reserved([PortMapping(80, 0, "tcp", "127.0.0.1")]) as (chosen,),
        socket.socket() as other,
        pytest.raises(OSError, match="in use"),
    ):
        other.bind(("127.0.0.1", chosen.host_port))

    assert chosen.host_port != 0
    with socket.socket() as other:
        other.bind(("127.0.0.1", chosen.host_port))


def test_failure_lets_go_of_the_ports_before():
    """Half a publication is none."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        mappings = [PortMapping(80, port, "tcp", "127.0.0.1")]
        mappings += [PortMapping(81, taken.getsockname()[1], "tcp", "127.0.0.1")]
        with pytest.raises(OSError, match="publish"), reserved(mappings):
            pass
        with socket.socket() as again:
            again.bind(("127.0.0.1", port))
