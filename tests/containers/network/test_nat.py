import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import netlab
import pytest

from cnlab.containers.network import nat
from cnlab.containers.network.nat import Published, Rules
from cnlab.containers.network.ports import PortMapping
from cnlab.errors import CnlabError

RULES = Rules("net0", "net0", IPv4Network("10.5.0.0/24"))
PUBLISHED = replace(
    RULES,
    published=(
        Published(PortMapping(80, 8080), IPv4Address("10.5.0.2")),
        Published(PortMapping(53, 5353, "udp", "192.0.2.1"), IPv4Address("10.5.0.3")),
    ),
)
BACKENDS = [name for name in ("nft", "iptables") if name == "iptables" or nat.has_nftables()]

pytestmark = pytest.mark.needs_root


@pytest.fixture(autouse=True)
def _host():
    with netlab.host():
        yield


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    return request.param


def listed(backend: str) -> str:
    command = ["nft", "list", "ruleset"] if backend == "nft" else ["iptables-save"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_published_port_is_a_rule_that_the_real_program_lists(backend):
    """And it is the only difference between publishing and not."""
    RULES.apply(backend)
    without = listed(backend)
    PUBLISHED.apply(backend, replacing=True)
    added = set(listed(backend).splitlines()) - set(without.splitlines())

    assert {line.strip() for line in added if not line.startswith("#")} == {
        "nft": {
            "tcp dport 8080 dnat to 10.5.0.2:80",
            "ip daddr 192.0.2.1 udp dport 5353 dnat to 10.5.0.3:53",
        },
        "iptables": {
            "-A cnlab-net0-publish -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.5.0.2:80",
            "-A cnlab-net0-publish -d 192.0.2.1/32 -p udp -m udp --dport 5353"
            " -j DNAT --to-destination 10.5.0.3:53",
        },
    }[backend]


def test_replacing_leaves_no_rule_twice(backend):
    """A network loads its rules anew with each container that publishes."""
    PUBLISHED.apply(backend)
    once = sorted(listed(backend).splitlines())
    PUBLISHED.apply(backend, replacing=True)

    assert [line for line in sorted(listed(backend).splitlines()) if line[:1] != "#"] == [
        line for line in once if line[:1] != "#"
    ]


def test_removal_leaves_the_rules_of_others(backend):
    """Ours are in a table, or chains, of our own."""
    foreign = "-A PREROUTING -p tcp --dport 9 -j DNAT --to-destination 192.0.2.9"
    subprocess.run(["iptables", "-t", "nat", *foreign.split()], check=True)
    other = replace(RULES, name="net1", bridge="net1")
    other.apply(backend)
    PUBLISHED.apply(backend)
    PUBLISHED.remove(backend)
    left = listed("iptables") + listed(backend)

    assert "192.0.2.9" in left
    assert "net1" in left
    assert "net0" not in left


def test_removing_what_is_not_there_is_no_error(backend):
    """Who cleans up after a crash does not know how far it got."""
    RULES.remove(backend)
    RULES.apply(backend)
    RULES.remove(backend)
    RULES.remove(backend)

    assert "net0" not in listed(backend)


def test_refusal_says_what_the_program_said(backend):
    """Its message names the line."""
    broken = replace(RULES, subnet="10.5.0.0/33")

    with pytest.raises(CnlabError, match=r"10.5.0.0/33|(?i:line)"):
        broken.apply(backend)
    assert "net0" not in listed(backend)


def test_internal_network_is_not_masqueraded():
    """Nothing leaves it that could be."""
    internal = replace(RULES, internal=True)

    assert RULES.nft().count("masquerade") - internal.nft().count("masquerade") == 1
    assert RULES.iptables().count("MASQUERADE") - internal.iptables().count("MASQUERADE") == 1


def test_iptables_is_used_where_it_drops_what_is_forwarded():
    """A table beside it could not accept what it has dropped; Docker sets that policy."""
    subprocess.run(["iptables", "-P", "FORWARD", "DROP"], check=True)

    assert nat.backend() == "iptables"
