import json
from ipaddress import IPv4Interface

import pytest

from cnlab.containers.network.cni_protocol import Addresses, CniError, parse_request

CONFIG = {"cniVersion": "1.0.0", "name": "demo", "type": "cnlab-cni", "ipam": {"type": "host-local"}}
ADD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}


def test_request_is_what_the_runtime_says():
    """Everything a plugin may look at comes by these two ways."""
    environment = ADD | {"CNI_ARGS": "IP=10.5.0.9;K8S_POD_NAME=web", "CNI_PATH": "/opt/cni/bin:/usr/lib/cni"}

    request = parse_request(environment, json.dumps(CONFIG))

    assert (request.command, request.container_id, request.netns, request.ifname) == (
        *("ADD", "c1", "/run/netns/c1", "eth0"),
    )
    assert request.args == {"IP": "10.5.0.9", "K8S_POD_NAME": "web"}
    assert request.path == ("/opt/cni/bin", "/usr/lib/cni")
    assert (request.network, request.version) == ("demo", "1.0.0")


@pytest.mark.parametrize(
    ("environment", "config", "code", "message"),
    [
        ({"CNI_COMMAND": ""}, CONFIG, 4, "CNI_COMMAND is ''; expected one of ADD"),
        ({"CNI_COMMAND": "add"}, CONFIG, 4, "CNI_COMMAND is 'add'"),
        ({"CNI_CONTAINERID": ""}, CONFIG, 4, "ADD needs CNI_CONTAINERID"),
        ({"CNI_NETNS": ""}, CONFIG, 4, "ADD needs CNI_NETNS"),
        ({"CNI_IFNAME": ""}, CONFIG, 4, "ADD needs CNI_IFNAME"),
        ({"CNI_CONTAINERID": "../../etc"}, CONFIG, 4, "CNI_CONTAINERID '../../etc'"),
        ({"CNI_IFNAME": "a/b"}, CONFIG, 4, "CNI_IFNAME 'a/b'"),
        ({"CNI_IFNAME": "sixteen-bytes-xx"}, CONFIG, 4, "CNI_IFNAME"),
        ({"CNI_ARGS": "IP"}, CONFIG, 4, "CNI_ARGS: 'IP' has no value"),
        ({}, "{", 6, "no JSON"),
        ({}, [], 6, "no JSON object"),
        ({}, CONFIG | {"cniVersion": "2.0.0"}, 1, "cniVersion '2.0.0' is not supported"),
        ({}, {key: CONFIG[key] for key in ("type", "ipam", "name")}, 1, "cniVersion '0.1.0'"),
        ({}, CONFIG | {"name": "../x"}, 7, "the network's name"),
        ({}, CONFIG | {"name": None}, 7, "no 'name'"),
        ({}, CONFIG | {"ipam": {}}, 7, "ipam.type"),
        ({}, CONFIG | {"ipam": None}, 7, "ipam.type"),
    ],
)
def test_what_the_specification_forbids_has_the_code_it_gives(environment, config, code, message):
    """The runtime decides by it whether to try again, and the reader of its log what to change."""
    text = config if isinstance(config, str) else json.dumps(config)
    with pytest.raises(CniError, match=message) as caught:
        parse_request(ADD | environment, text)

    assert caught.value.code == code


def test_version_is_asked_without_a_network():
    """Before there is a configuration at all."""
    assert parse_request({"CNI_COMMAND": "VERSION"}, '{"cniVersion": "1.1.0"}').command == "VERSION"


def test_error_is_printed_in_the_words_of_the_specification():
    """Section 5, "Error"."""
    assert CniError(7, "no subnet", "see ipam").to_json("1.1.0") == {
        **{"cniVersion": "1.1.0", "code": 7},
        **{"msg": "no subnet", "details": "see ipam"},
    }


LEASED = {
    "ips": [{"address": "10.5.0.2/24", "gateway": "10.5.0.1"}],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.5.0.9"}],
    "dns": {"nameservers": ["10.5.0.1"]},
}


def test_result_of_ipam_survives_the_reading():
    """It is passed on to the runtime."""
    assert Addresses.parse(LEASED).to_json("1.0.0") == LEASED


def test_older_versions_are_told_the_family_of_an_address():
    """Required until 0.4.0, forbidden since 1.0.0."""
    assert Addresses.parse(LEASED).to_json("0.4.0")["ips"][0]["version"] == "4"


@pytest.mark.parametrize("ips", [[], [{"address": "fd00::2/64"}], LEASED["ips"] * 2, [{}]])
def test_other_than_one_ipv4_address_is_not_supported(ips):
    """Said, rather than done for one of them."""
    with pytest.raises(CniError, match="expected one IPv4 address") as caught:
        Addresses.parse({"ips": ips})

    assert caught.value.code == 2


def test_address_keeps_its_prefix():
    """The length says who is a neighbour."""
    assert Addresses.parse(LEASED).address == IPv4Interface("10.5.0.2/24")
