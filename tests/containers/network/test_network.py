import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import netlab
import pytest
from netlab import HOST_OUTSIDE, OUTSIDE, answers, ask, serving, world_outside

from cnlab.clock import wait_until
from cnlab.containers.network import Network
from cnlab.errors import InvalidValue
from cnlab.linux.namespaces import spawn
from cnlab.linux.netns import NetNs, inside
from cnlab.linux.rtnetlink import Rtnetlink

pytestmark = pytest.mark.needs_root


@pytest.fixture
def host() -> Iterator[NetNs]:
    """A machine of our own; what a network makes there must be gone in the end."""
    with netlab.host() as namespace:
        before = what_there_is()
        yield namespace
        assert what_there_is() == before


@pytest.fixture(params=["as it is", "forwarding is dropped"])
def either_host(request, host) -> NetNs:
    """Also a machine where Docker has made iptables drop what is forwarded: there, too, we use iptables."""
    if request.param == "forwarding is dropped":
        subprocess.run(["iptables", "-P", "FORWARD", "DROP"], check=True)
    return host


@pytest.fixture
def containers() -> Iterator[tuple[NetNs, NetNs]]:
    """The network namespaces of two containers."""
    with NetNs.create() as first, NetNs.create() as second:
        yield first, second


def what_there_is() -> dict[str, object]:
    with Rtnetlink() as ip:
        links = [link.name for link in ip.links()]
    return {
        "links": links,
        "rules": netlab.packet_rules(),
        "forwards": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "threads": threading.active_count(),
        "children": Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text(),
    }


def test_containers_of_a_network_reach_each_other_as_who_they_are(either_host, containers):
    """No translation inside: an address means a container."""
    web, client = containers
    with Network("net0", subnet="10.5.0.0/24") as net:
        address = str(net.attach(web, name="web").address.ip)
        own = str(net.attach(client, name="client").address.ip)
        with serving(web, "web"):
            assert ask(address, start=client) == f"web for {own}"


def test_host_reaches_a_container_that_publishes_nothing(either_host, containers):
    """To publish is to let others in; who owns the bridge is no other."""
    with Network("net0") as net, serving(containers[0], "web"):
        web = net.attach(containers[0], name="web")

        assert ask(str(web.address.ip)).startswith("web")


@pytest.mark.parametrize(
    "caller", ["host's loopback", "host", "other container", "container itself", "outside"]
)
def test_published_port_answers(either_host, containers, caller):
    """Wherever the call comes from, the host's port is the container's."""
    with Network("net0", subnet="10.5.0.0/24") as net, world_outside() as outside:
        net.attach(containers[0], name="web", ports={"80/tcp": 8080})
        net.attach(containers[1], name="other")
        address, start = {
            "host's loopback": ("127.0.0.1", None),
            "host": (HOST_OUTSIDE, None),
            "other container": (str(net.gateway), containers[1]),
            "container itself": (str(net.gateway), containers[0]),
            "outside": (HOST_OUTSIDE, outside),
        }[caller]
        with serving(containers[0], "web"):
            assert ask(address, 8080, start=start).startswith("web")


def test_published_port_of_one_address_is_not_one_of_others(either_host, containers):
    """``127.0.0.1:8080:80`` keeps a database off the street."""
    with Network("net0") as net, world_outside() as outside, serving(containers[0], "web"):
        net.attach(containers[0], name="web", ports={"80/tcp": ("127.0.0.1", 8080)})

        assert ask("127.0.0.1", 8080).startswith("web")
        assert not answers(HOST_OUTSIDE, 8080, start=outside)


def test_from_outside_only_published_ports_are_reached(either_host, containers):
    """Even by who knows the way: a container listens on more ports than it means to publish."""
    with Network("net0", subnet="10.5.0.0/24") as net, world_outside() as outside:
        web = str(net.attach(containers[0], name="web", ports={"80/tcp": 8080}).address.ip)
        with serving(containers[0], "web"), serving(containers[0], "secret", port=81):
            assert ask(HOST_OUTSIDE, 8080, start=outside) == f"web for {OUTSIDE}"
            assert not answers(web, 80, start=outside)
            assert not answers(web, 81, start=outside)


def test_world_outside_sees_the_host_instead_of_the_container(either_host, containers):
    """Masquerading: nobody out there has a way back to a private address."""
    with Network("net0") as net, world_outside() as outside, serving(outside, "world"):
        net.attach(containers[0], name="web")

        assert ask(OUTSIDE, start=containers[0]) == f"world for {HOST_OUTSIDE}"


def test_networks_are_closed_to_each_other(either_host, containers):
    """That is why there are several."""
    with Network("net0") as one, Network("net1") as other, serving(containers[0], "web"):
        web = str(one.attach(containers[0], name="web").address.ip)
        other.attach(containers[1], name="client")

        assert not answers(web, start=containers[1])


def test_nothing_leaves_an_internal_network(either_host, containers):
    """But its containers still have each other."""
    with Network("net0", internal=True) as net, world_outside() as outside:
        web = str(net.attach(containers[0], name="web").address.ip)
        net.attach(containers[1], name="client")
        with Rtnetlink(containers[1]) as ip:
            assert not [route for route in ip.routes() if route.is_default]
            ip.add_route("default", via=net.gateway)  # as a container with CAP_NET_ADMIN could
        with serving(outside, "world"), serving(containers[0], "web"):
            assert ask(web, start=containers[1]).startswith("web")
            assert not answers(OUTSIDE, start=containers[1])


def test_container_cannot_reach_the_loopback_of_the_host(either_host, containers):
    """Publishing at 127.0.0.1 makes the bridge let such packets pass; the rules must not."""
    with Network("net0") as net, serving(either_host, "private", port=81, address="127.0.0.1"):
        net.attach(containers[0], name="web", ports={"80/tcp": 8080})
        with inside(containers[0]), Rtnetlink() as ip:
            Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
            ip.delete_address("lo", "127.0.0.1/8")
            ip.set_link("lo", up=False)
            ip.add_route("127.0.0.1/32", via=net.gateway)

        assert not answers("127.0.0.1", 81, start=containers[0])


def test_datagrams_are_published_too(either_host, containers):
    """DNS servers are containers as well."""
    with Network("net0") as net, contextlib.ExitStack() as stack:
        (port,) = net.attach(containers[0], name="echo", ports={"7/udp": None}).ports
        with inside(containers[0]):
            echo = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            echo.bind(("0.0.0.0", 7))
        client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(5)
        client.connect(("127.0.0.1", port.host_port))
        client.send(b"hello")
        said, sender = echo.recvfrom(100)
        echo.sendto(said.upper(), sender)

        assert client.recv(100) == b"HELLO"


def test_taken_port_is_refused_and_nothing_is_attached(host, containers):
    """Before the container starts, not when the first request goes astray."""
    with Network("net0") as net, serving(host, "other", port=8080):
        with pytest.raises(OSError, match=r"publish\(0.0.0.0:8080/tcp\): Address already in use") as caught:
            net.attach(containers[0], name="web", ports={"80/tcp": 8080})
        with Rtnetlink(containers[0]) as ip:
            links = [link.name for link in ip.links()]

        assert (caught.value.errno, links, net.attachments) == (errno.EADDRINUSE, ["lo"], {})


def test_two_containers_cannot_publish_the_same_port(host, containers):
    """The first keeps it."""
    with Network("net0") as net, serving(containers[0], "first"):
        net.attach(containers[0], name="first", ports={80: 8080})
        with pytest.raises(OSError, match="Address already in use"):
            net.attach(containers[1], name="second", ports={80: 8080})

        assert ask("127.0.0.1", 8080).startswith("first")


# Names


def resolver_says(net: Network, start: NetNs, name: str, tmp_path: Path) -> str:
    """What the C library's resolver, configured as the network says, makes of a name."""
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(net.resolv_conf)
    script = f"mount --bind {resolv_conf} /etc/resolv.conf && getent -s dns ahostsv4 {name}"
    with inside(start), spawn(["sh", "-c", script], new=("mnt",), capture=True) as child:
        assert child.stdout is not None
        return next((line.split()[0] for line in child.stdout), "")


def test_containers_find_each_other_by_name(host, containers, tmp_path):
    """The resolver of the C library asks, as every program in a container would."""
    with Network("net0") as net:
        web = net.attach(containers[0], name="Web", aliases=("www",))
        net.attach(containers[1], name="client")

        found = {
            name: resolver_says(net, containers[1], name, tmp_path) for name in ("web", "www", "web.net0")
        }

        assert set(found.values()) == {str(web.address.ip)}
        assert resolver_says(net, containers[1], "nobody", tmp_path) == ""


def test_names_follow_who_comes_and_goes(host, containers):
    """Nothing has to be restarted for a new container to be found."""
    with Network("net0") as net:
        first = net.attach(containers[0], name="web-1", aliases=("web",))
        second = net.attach(containers[1], name="web-2", aliases=("web",))
        both = net.resolve("web")
        net.detach(first)

        assert both == (first.address.ip, second.address.ip)
        assert net.resolve("web.") == (second.address.ip,)


def test_hosts_file_names_the_container_itself(host, containers):
    """Programs look their own host name up; there may be no other source for it."""
    with Network("net0", subnet="10.5.0.0/24") as net:
        web = net.attach(containers[0], name="web")

        assert net.hosts_file(web, "box").splitlines() == ["127.0.0.1\tlocalhost", "10.5.0.2\tbox web"]


# Coming and going


def test_second_network_is_the_second_interface(host, containers):
    """eth0 and eth1 of the lecture; the way out stays the first one's."""
    with Network("net0") as one, Network("net1") as other, Rtnetlink(containers[0]) as ip:
        attachments = [one.attach(containers[0], name="web"), other.attach(containers[0], name="web")]
        (default,) = [route for route in ip.routes() if route.is_default]

        assert [attachment.interface for attachment in attachments] == ["eth0", "eth1"]
        assert default.gateway == one.gateway
        assert one.subnet != other.subnet


def test_container_that_died_is_detached_like_any_other(host):
    """Its end of the cable is gone, and so is ours."""
    with Network("net0") as net:
        with spawn(["sleep", "60"], new=("net",)) as child:
            web = net.attach(child, name="web", ports={80: 8080})
        with Rtnetlink() as ip:
            wait_until(lambda: [link.name for link in ip.links()] == ["lo", "net0"], timeout_s=60)
        net.detach(web)
        net.detach(web)

        assert net.attachments == {}


def test_address_rests_before_it_is_given_again(host, containers):
    """Others may still have connections to the one before."""
    with Network("net0", subnet="10.5.0.0/29") as net:
        first = net.attach(containers[0], name="web")
        net.detach(first)
        second = net.attach(containers[0], name="web")

        assert (str(first.address), str(second.address)) == ("10.5.0.2/29", "10.5.0.3/29")


def test_address_can_be_chosen(host, containers):
    """As ``docker network connect --ip`` does."""
    with Network("net0", subnet="10.5.0.0/24") as net:
        web = net.attach(containers[0], name="web", address="10.5.0.77")

        assert (str(web.address), web.mac) == ("10.5.0.77/24", "02:42:0a:05:00:4d")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "web"}, "has a container 'web' already"),
        ({"name": "other", "address": "10.5.0.2"}, "10.5.0.2 is in use by web"),
        ({"name": "other", "address": "10.5.0.1"}, "10.5.0.1 is in use by gateway"),
        ({"name": "other", "address": "10.6.0.2"}, "no address for a container in 10.5.0.0/24"),
        ({"name": "a/b"}, "no name for a container"),
        ({"name": "other", "ports": {"http": 80}}, "no container port"),
    ],
)
def test_attachment_that_cannot_be_is_refused(host, containers, options, message):
    """One line says what and why, and the network is as before."""
    with Network("net0", subnet="10.5.0.0/24") as net:
        net.attach(containers[0], name="web")
        with pytest.raises(InvalidValue, match=message):
            net.attach(containers[1], **options)

        assert list(net.attachments) == ["web"]


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("sixteen-letters-", {}, InvalidValue),
        ("a b", {}, InvalidValue),
        ("net0", {"subnet": "10.5.0.0"}, InvalidValue),
        ("net0", {"subnet": "10.5.0.1/24"}, InvalidValue),
        ("lo", {}, FileExistsError),
    ],
)
def test_network_that_cannot_be_is_refused(host, name, options, error):
    """And what was made up to there is gone; the fixture looks."""
    with pytest.raises(error), Network(name, **options):
        pass


def test_free_subnet_avoids_those_in_use(host):
    """Also those that are only routed to: a company's own 10.89 is not ours to take."""
    with Rtnetlink() as ip:
        ip.add_address("lo", "10.89.0.5/32")
        ip.add_route("10.89.1.0/24", kind="unreachable")
    with Network("net0") as net:
        assert str(net.subnet) == "10.89.2.0/24"


def test_host_forwards_until_the_last_network_has_gone(host):
    """In whatever order they go."""
    forwards = Path("/proc/sys/net/ipv4/ip_forward")
    first, second = Network("net0"), Network("net1")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    between = forwards.read_text()
    second.__exit__(None, None, None)

    assert (between, forwards.read_text()) == ("1\n", "0\n")


def test_failure_in_the_block_undoes_all(host, containers):
    """The fixture looks at what is left."""
    with contextlib.suppress(ZeroDivisionError), Network("net0") as net:
        net.attach(containers[0], name="web", ports={80: 8080})
        raise ZeroDivisionError


def test_many_containers_come_and_go_at_once(host):
    """From several threads, as a client does that starts a whole application."""
    with Network("net0") as net, contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        containers = [stack.enter_context(NetNs.create()) for _ in range(24)]

        def live(numbered: tuple[int, NetNs]) -> str:
            number, container = numbered
            attachment = net.attach(
                container, name=f"c{number}", ports={80: None} if number % 4 == 0 else None
            )
            if number % 2:
                net.detach(attachment)
            return str(attachment.address.ip)

        addresses = list(pool.map(live, enumerate(containers)))

        assert len(set(addresses)) == 24
        assert sorted(net.attachments) == sorted(f"c{number}" for number in range(0, 24, 2))


def test_refusal_tells_an_unprivileged_user_where_to_go(student):
    """Before anything is made."""
    code = "from cnlab.containers.network import Network; Network('net0').__enter__()"

    said = student.run([sys.executable, "-c", code], check=False).stderr

    assert "add_bridge(net0): Operation not permitted" in said
    assert "Hint: only root may" in said


UNPRIVILEGED = """
import netlab
from cnlab.containers.network import Network
from cnlab.linux.namespaces import spawn
from cnlab.linux.netns import NetNs

def run() -> None:
    with netlab.host(), NetNs.create() as container, Network("net0") as net:
        net.attach(container, name="web", ports={80: 8080})
        with netlab.serving(container, "web"):
            print(netlab.ask("127.0.0.1", 8080))

with spawn(run, new=("user", "net", "mnt"), capture=True) as child:
    print(child.stdout.read(), child.stderr.read())
"""


@pytest.mark.needs_userns
def test_unprivileged_user_has_networks_in_a_user_namespace(student):
    """What rootless engines do; from there to the world it takes one more step, such as slirp."""
    tests = {"PYTHONPATH": str(Path(netlab.__file__).parent)}

    assert student.run([sys.executable, "-c", UNPRIVILEGED], env=tests).stdout.startswith("web for 10.89.0.1")


MAKE_AND_WAIT = """
import signal
from cnlab.containers.network import Network
from cnlab.linux.netns import NetNs
with NetNs.create() as container, Network("net0") as net:
    net.attach(container, name="web", ports={80: 8080})
    print("made", flush=True)
    signal.pause()
"""


def test_killed_process_leaves_nothing(host):
    """A notebook's kernel may be killed at any moment; the bridge belongs to nobody then."""
    before = what_there_is()
    with subprocess.Popen(
        [sys.executable, "-c", MAKE_AND_WAIT], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        during = what_there_is()
        os.kill(process.pid, signal.SIGKILL)

    assert "net0" in str(during["links"])
    assert during["rules"] != before["rules"]
    wait_until(lambda: what_there_is() == before, timeout_s=60, what="the last will to be executed")
