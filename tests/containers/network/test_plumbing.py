from ipaddress import IPv4Interface, IPv4Network

import netlab
import pytest

from cnlab.containers.network import plumbing
from cnlab.linux import syscalls
from cnlab.linux.namespaces import spawn
from cnlab.linux.netns import NetNs
from cnlab.linux.rtnetlink import Rtnetlink

pytestmark = pytest.mark.needs_root
ADDRESS = IPv4Interface("10.5.0.2/24")


@pytest.fixture
def host():
    with netlab.host(), Rtnetlink() as ip:
        yield ip


def names(ip: Rtnetlink) -> list[str]:
    return [link.name for link in ip.links()]


def connect(host: Rtnetlink, container: NetNs, **changed) -> None:
    options = {
        "bridge": "br0",
        "host_interface": "veth0",
        "interface": "eth0",
        "address": ADDRESS,
        "routes": [(IPv4Network("0.0.0.0/0"), IPv4Interface("10.5.0.1/24").ip)],
    }
    plumbing.connect(host, container, **options | changed)


def test_container_has_lo_eth0_an_address_and_a_way_out(host):
    """The lecture's picture, in one call."""
    plumbing.make_bridge(host, "br0", IPv4Interface("10.5.0.1/24"))
    with NetNs.create() as container, Rtnetlink(container) as there:
        connect(host, container)
        links = there.links()

        assert [(link.name, link.is_up) for link in links] == [("lo", True), ("eth0", True)]
        assert str(there.addresses("eth0")[0].interface) == "10.5.0.2/24"
        assert [str(route.gateway) for route in there.routes() if route.is_default] == ["10.5.0.1"]


@pytest.mark.parametrize(
    "changed",
    [
        {"interface": "lo"},
        {"bridge": "br9"},
        {"host_interface": "br0"},
        {"address": IPv4Interface("0.0.0.0/0")},
        {"routes": [(IPv4Network("10.9.0.0/16"), IPv4Interface("10.6.0.1/24").ip)]},
    ],
)
def test_refusal_leaves_no_cable(host, changed):
    """At whatever step the kernel says no."""
    plumbing.make_bridge(host, "br0", IPv4Interface("10.5.0.1/24"))
    with NetNs.create() as container, Rtnetlink(container) as there:
        with pytest.raises(OSError, match=r"\("):
            connect(host, container, **changed)

        assert (names(host), names(there)) == (["lo", "br0"], ["lo"])


def test_bridge_that_cannot_be_finished_is_removed():
    """In a container without --privileged /proc/sys is read-only: found out when the bridge is half made."""

    def make_half() -> None:
        syscalls.mount("/proc/sys", "/proc/sys", flags=syscalls.MS_BIND)
        syscalls.mount("", "/proc/sys", flags=syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY)
        with Rtnetlink() as ip:
            try:
                plumbing.make_bridge(ip, "br0", IPv4Interface("10.5.0.1/24"))
            except OSError as error:
                print(error.strerror, *names(ip))

    with spawn(make_half, new=("mnt", "net"), capture=True) as child:
        assert child.stdout is not None
        assert child.stdout.read() == "Read-only file system lo\n"


def test_bridge_keeps_its_hardware_address(host):
    """Else each new container could make the others' ARP tables wrong."""
    plumbing.make_bridge(host, "br0", IPv4Interface("10.5.0.1/24"))
    host.add_veth("veth0", peer="veth1", mac="02:00:00:00:00:01", master="br0", up=True)

    assert host.link("br0").mac == "02:42:0a:05:00:01"
