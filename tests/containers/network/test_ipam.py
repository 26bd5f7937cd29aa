import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from cnlab.containers.network.ipam import (
    AddressesExhausted,
    LeaseDirectory,
    Pool,
    free_subnet,
    gateway_of,
    next_free,
)
from cnlab.errors import InvalidValue

SMALL = IPv4Network("10.5.0.0/29")  # .1 to .6, .1 the gateway's
HOST_LOCAL = Path("/usr/lib/cni/host-local")


def addresses(*numbers: int) -> set[IPv4Address]:
    return {SMALL.network_address + number for number in numbers}


def test_addresses_go_round():
    """After the last one comes the first that is free, and never the network's own or the broadcast one."""
    assert next_free(SMALL, addresses(1), after=SMALL[5]) == SMALL[6]
    assert next_free(SMALL, addresses(1), after=SMALL[6]) == SMALL[2]
    assert next_free(SMALL, addresses(1, 2, 3), after=None) == SMALL[4]


def test_only_address_is_given_again_at_once():
    """Going round ends where it began."""
    assert next_free(SMALL, addresses(1, 2, 3, 4, 6), after=SMALL[5]) == SMALL[5]


def test_full_subnet_says_how_many_it_holds():
    """So that the reader can choose a larger one."""
    pool = Pool(SMALL)
    given = [pool.allocate(str(number)).ip for number in range(5)]
    with pytest.raises(AddressesExhausted, match=r"all 6 addresses of 10.5.0.0/29 are in use"):
        pool.allocate("one too many")
    pool.release(given[2])

    assert pool.allocate("after all").ip == given[2]


def test_free_subnet_overlaps_with_none_in_use():
    """A default route is no use of all addresses; a larger network is one of all the smaller in it."""
    used = [IPv4Network(text) for text in ("0.0.0.0/0", "10.89.0.0/23", "10.89.2.128/25", "10.89.4.0/24")]

    assert free_subnet(used) == IPv4Network("10.89.3.0/24")


def test_no_free_subnet_is_said():
    """Rather than one that is taken."""
    with pytest.raises(AddressesExhausted, match="name a subnet"):
        free_subnet([IPv4Network("10.0.0.0/8")])


@pytest.fixture
def leases(tmp_path) -> LeaseDirectory:
    return LeaseDirectory(tmp_path / "demo", SMALL, gateway_of(SMALL))


def test_lease_lasts_until_it_is_released(leases):
    """On disk, so that another process knows of it."""
    given = leases.allocate("c1", "eth0")
    again = LeaseDirectory(leases.path, SMALL, leases.gateway)

    assert again.leases() == {given.ip: ("c1", "eth0")}
    again.release(lambda container_id, ifname: (container_id, ifname) == ("c1", "eth0"))
    assert leases.leases() == {}


def test_release_is_of_the_link_that_was_meant(leases):
    """A container may have several; GC relies on telling them apart."""
    leases.allocate("c1", "eth0")
    kept = leases.allocate("c1", "eth1")

    leases.release(lambda container_id, ifname: ifname != "eth1")

    assert leases.leases() == {kept.ip: ("c1", "eth1")}


@pytest.mark.parametrize("wanted", ["10.5.0.1", "10.5.0.0", "10.5.0.7", "10.6.0.2", "web"])
def test_address_that_no_container_may_have_is_refused(leases, wanted):
    """The gateway's, the network's, the broadcast one, one of elsewhere, none at all."""
    with pytest.raises(InvalidValue):
        leases.allocate("c1", "eth0", wanted)


def test_plugins_at_the_same_time_get_different_addresses(tmp_path):
    """A kubelet starts many containers at once."""
    network = IPv4Network("10.5.0.0/24")

    def allocate(number: int) -> IPv4Address:
        return LeaseDirectory(tmp_path, network, network[1]).allocate(f"c{number}", "eth0").ip

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(allocate, range(40)))) == 40


def host_local(command: str, container_id: str, directory: Path) -> dict:
    """Call the reference plugin."""
    config = {
        "cniVersion": "1.0.0",
        "name": "demo",
        "ipam": {"type": "host-local", "subnet": str(SMALL), "dataDir": str(directory)},
    }
    environment = os.environ | {
        **{"CNI_COMMAND": command, "CNI_CONTAINERID": container_id, "CNI_IFNAME": "eth0"},
        **{"CNI_NETNS": "/unused", "CNI_PATH": "/usr/lib/cni"},
    }
    done = subprocess.run(
        [HOST_LOCAL], input=json.dumps(config), env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout or "{}")


@pytest.mark.needs_programs("/usr/lib/cni/host-local")
def test_reference_plugin_shares_our_leases(leases, tmp_path):
    """Each sees what the other gave, goes on where it stopped, and can take it back."""
    first = leases.allocate("ours", "eth0")
    theirs = IPv4Address(host_local("ADD", "theirs", tmp_path)["ips"][0]["address"].partition("/")[0])
    third = leases.allocate("ours-too", "eth0")
    between = leases.leases()
    host_local("DEL", "ours", tmp_path)
    leases.release(lambda container_id, ifname: (container_id, ifname) == ("theirs", "eth0"))

    assert [first.ip, theirs, third.ip] == [SMALL[2], SMALL[3], SMALL[4]]
    assert between[theirs] == ("theirs", "eth0")
    assert set(leases.leases()) == {third.ip}
