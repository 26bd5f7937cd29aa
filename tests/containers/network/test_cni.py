"""The plugin, called as the specification says; and by podman, which calls plugins in earnest."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netlab
import pytest
from netlab import HOST_OUTSIDE, OUTSIDE, ask, serving, world_outside

from cnlab.linux.namespaces import spawn
from cnlab.linux.netns import NetNs, inside
from cnlab.linux.rtnetlink import Rtnetlink

pytestmark = pytest.mark.needs_root

PLUGIN = Path(sys.executable).with_name("cnlab-cni")
REFERENCE = Path("/usr/lib/cni")
Json = dict[str, Any]


@dataclass
class Caller:
    """What a container runtime does with a list of plugins: specification 1.1, section 3."""

    plugins: list[Json]
    netns: str
    container_id: str = "c1"
    ifname: str = "eth0"
    version: str = "1.0.0"
    result: Json | None = None

    def call(self, command: str, plugin: Json, **extra: Any) -> Json:
        """Execute one plugin and return what it prints.

        Raises:
            subprocess.CalledProcessError: it failed; what it printed is in there.
        """
        config = {"cniVersion": self.version, "name": "demo"} | plugin | extra
        program = shutil.which(plugin["type"], path=f"{PLUGIN.parent}:{REFERENCE}")
        assert program is not None
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.ifname,
            "CNI_PATH": f"{PLUGIN.parent}:{REFERENCE}",
            "PATH": os.environ["PATH"],
        }
        done = subprocess.run(
            [program], input=json.dumps(config), env=environment, capture_output=True, text=True
        )
        assert done.stderr == ""
        if done.returncode:
            raise subprocess.CalledProcessError(
                done.returncode, f"{program} {command}: {done.stdout}", done.stdout
            )
        return json.loads(done.stdout or "{}")

    def add(self) -> Json:
        """Each plugin sees the result of the one before it."""
        previous: Json = {}
        for plugin in self.plugins:
            previous = {"prevResult": self.call("ADD", plugin, **previous)}
        self.result = previous["prevResult"]
        return self.result

    def check(self) -> None:
        """In the same order, with the result of the last one."""
        for plugin in self.plugins:
            self.call("CHECK", plugin, prevResult=self.result)

    def delete(self) -> None:
        """In reverse order."""
        previous = {"prevResult": self.result} if self.result else {}
        for plugin in reversed(self.plugins):
            self.call("DEL", plugin, **previous)


@pytest.fixture
def host() -> Iterator[NetNs]:
    """A machine of our own."""
    with netlab.host() as namespace:
        yield namespace


@pytest.fixture
def container() -> Iterator[str]:
    """The path of a container's network namespace."""
    with spawn(["sleep", "600"], new=("net",)) as child:
        yield f"/proc/{child.pid}/ns/net"


@pytest.fixture
def config(tmp_path) -> Json:
    """A network, all of whose state is in the test's own directory."""
    return {
        "type": "cnlab-cni",
        "bridge": "cni9",
        "isDefaultGateway": True,
        "ipMasq": True,
        "stateDir": str(tmp_path / "run"),
        "ipam": {"type": "cnlab-cni", "subnet": "10.5.0.0/24", "dataDir": str(tmp_path / "leases")},
    }


def publishing(config: Json, host_port: int) -> Json:
    mapping = {"hostPort": host_port, "containerPort": 80, "protocol": "tcp"}
    return config | {"runtimeConfig": {"portMappings": [mapping]}}


def what_is_left(tmp_path: Path) -> dict[str, object]:
    """Links, rules, leases and notes."""
    with Rtnetlink() as ip:
        links = [link.name for link in ip.links()]
    leases = [path.name for path in (tmp_path / "leases").rglob("10.*")]
    notes = [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()]
    return {"links": links, "rules": netlab.packet_rules(), "leases": leases, "notes": notes}


NOTHING = {"links": ["lo", "cni9"], "rules": "", "leases": [], "notes": []}  # a bridge stays, as bridges do


def failure(caught: pytest.ExceptionInfo[subprocess.CalledProcessError]) -> Json:
    return json.loads(caught.value.output)


def test_result_says_what_the_kernel_says(host, container, config):
    """The runtime, and the next plugin, know nothing else."""
    result = Caller([config], container).add()
    bridge, ours, theirs = result["interfaces"]
    with Rtnetlink() as ip, Rtnetlink(container) as there:
        links = [ip.link(bridge["name"]), ip.link(ours["name"]), there.link("eth0")]
        addresses = [str(one.interface) for one in there.addresses("eth0") if one.interface.version == 4]

    assert [one["mac"] for one in result["interfaces"]] == [link.mac for link in links]
    assert (theirs["name"], theirs["sandbox"]) == ("eth0", container)
    assert links[1].master == links[0].index
    assert result["ips"] == [{"address": addresses[0], "gateway": "10.5.0.1", "interface": 2}]
    assert result["routes"] == [{"dst": "0.0.0.0/0"}]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_result_speaks_the_version_that_was_asked_for(host, container, config, version):
    """podman of Debian 12 asks for 0.4.0, a kubelet of today for 1.0.0 or 1.1.0."""
    result = Caller([config], container, version=version).add()

    assert result["cniVersion"] == version
    assert ("version" in result["ips"][0]) == version.startswith("0.")


def test_container_reaches_the_world_and_is_reached_at_its_port(host, container, config):
    """The three things that a cluster's network is for: neighbours, the way out, the way in."""
    with spawn(["sleep", "600"], new=("net",)) as other, world_outside() as outside:
        first = Caller([publishing(config, 8080)], container).add()["ips"][0]["address"]
        Caller([config], f"/proc/{other.pid}/ns/net", "c2").add()
        with serving(container, "web"), serving(outside, "world"):
            assert ask(first.partition("/")[0], start=other) == "web for 10.5.0.3"
            assert ask(OUTSIDE, start=container) == f"world for {HOST_OUTSIDE}"
            assert ask("127.0.0.1", 8080).startswith("web")
            assert ask(HOST_OUTSIDE, 8080, start=outside) == f"web for {OUTSIDE}"


def test_reference_plugins_go_on_from_our_result(host, container, config, tmp_path):
    """The last word on it: tuning and portmap read our result as their prevResult, and check it again."""
    tuning = {"type": "tuning", "mac": "02:00:00:00:00:77", "dataDir": str(tmp_path / "tuning")}
    portmap = publishing({"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}, 8080)
    caller = Caller([config, tuning, portmap], container)
    result = caller.add()
    with serving(container, "web"):
        said = ask("10.5.0.1", 8080)
    with Rtnetlink(container) as there:
        mac = there.link("eth0").mac
    for plugin in (config, tuning):  # CHECK of this portmap fails by itself: it asks for a chain of IPv6
        caller.call("CHECK", plugin, prevResult=result)
    caller.delete()

    assert said.startswith("web")
    assert mac == result["interfaces"][2]["mac"] == "02:00:00:00:00:77"
    with Rtnetlink(container) as there:
        assert [link.name for link in there.links()] == ["lo"]


def test_reference_plugin_gives_out_the_addresses(host, container, config, tmp_path):
    """Delegation: the plugin that ``ipam.type`` names is executed for ADD and DEL."""
    delegating = config | {"ipam": config["ipam"] | {"type": "host-local"}}
    caller = Caller([delegating], container)
    address = caller.add()["ips"][0]["address"]
    caller.check()
    leased = what_is_left(tmp_path)["leases"]
    caller.delete()

    assert (address, leased) == ("10.5.0.2/24", ["10.5.0.2"])
    assert what_is_left(tmp_path) == NOTHING


def test_result_of_a_plugin_before_us_is_kept(host, container, config):
    """Of the reference plugin that sets the loopback up, for one."""
    loopback = {"type": "loopback"}
    result = Caller([loopback, config], container).add()

    assert result["interfaces"][-1]["name"] == "eth0"
    assert "127.0.0.1/8" in [ip["address"] for ip in result["ips"]]
    assert result["interfaces"][result["ips"][-1]["interface"]]["name"] == "eth0"


def test_deletion_leaves_nothing_and_may_be_repeated(host, container, config, tmp_path):
    """A runtime that is not sure calls again; also after the container's namespace has gone."""
    caller = Caller([publishing(config, 8080)], container)
    caller.add()
    caller.delete()
    after = what_is_left(tmp_path)
    caller.netns = ""
    caller.delete()

    assert after == what_is_left(tmp_path) == NOTHING


def test_deletion_after_the_container_has_died_leaves_nothing(host, config, tmp_path):
    """The usual order of things after a crash."""
    with spawn(["sleep", "600"], new=("net",)) as child:
        caller = Caller([publishing(config, 8080)], f"/proc/{child.pid}/ns/net")
        caller.add()
    caller.delete()

    assert what_is_left(tmp_path) == NOTHING


@pytest.mark.parametrize(
    "damage",
    [
        lambda ip, there: there.set_link("eth0", up=False),
        lambda ip, there: there.delete_address("eth0", "10.5.0.2/24"),
        lambda ip, there: there.delete_route("default", via="10.5.0.1"),
        lambda ip, there: there.delete_link("eth0"),
        lambda ip, there: ip.set_link(next(x.name for x in ip.links() if x.kind == "veth"), master=""),
    ],
)
def test_check_finds_what_is_no_longer_as_it_was_made(host, container, config, damage):
    """And says nothing before."""
    caller = Caller([config], container)
    caller.add()
    caller.check()
    with Rtnetlink() as ip, Rtnetlink(container) as there:
        damage(ip, there)

    with pytest.raises(subprocess.CalledProcessError) as caught:
        caller.check()
    assert failure(caught)["code"] >= 100


def test_garbage_is_what_the_runtime_no_longer_knows(host, container, config, tmp_path):
    """Containers whose DEL was lost, with their addresses and rules; the others stay as they are."""
    with spawn(["sleep", "600"], new=("net",)) as other:
        kept = Caller([config], container)
        kept.add()
        Caller([publishing(config, 8080)], f"/proc/{other.pid}/ns/net", "lost").add()
        kept.version = "1.1.0"
        kept.call("GC", config, **{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]})
        left = what_is_left(tmp_path)
        kept.check()

    assert left["leases"] == ["10.5.0.2"]
    assert (len(left["links"]), len(left["notes"])) == (3, 1)
    assert "8080" not in str(left["rules"])


def test_second_addition_is_refused_and_the_first_stays(host, container, config):
    """A runtime must not add twice; what it has added must not suffer."""
    caller = Caller([config], container)
    caller.add()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        caller.call("ADD", config)
    caller.check()

    assert "has a link eth0 already" in failure(caught)["msg"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ipam": {"type": "nobody"}}, 7),
        ({"ipam": {"type": "cnlab-cni"}}, 7),
        ({"ipam": {"type": "cnlab-cni", "subnet": "10.5.0.0/33"}}, 7),
        ({"bridge": "sixteen-bytes-xx"}, 7),
        ({"bridge": "lo"}, 7),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 80}]}}, 7),
        ({"runtimeConfig": {"portMappings": [{"containerPort": 80}]}}, 7),
        ({"mtu": "large"}, 7),
    ],
)
def test_failed_addition_leaves_nothing(host, container, config, tmp_path, change, code):
    """At whatever step; the runtime may try again at once."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        Caller([config | change], container).add()
    left = what_is_left(tmp_path)
    with Rtnetlink(container) as there:
        links = [link.name for link in there.links()]

    assert failure(caught)["code"] == code
    assert (left["leases"], left["notes"], left["rules"], links) == ([], [], "", ["lo"])


def test_full_subnet_is_to_be_tried_again_later(host, container, config):
    """Code 11: an address may come free."""
    small = config | {"ipam": config["ipam"] | {"subnet": "10.5.0.0/30"}}
    Caller([small], container).add()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        Caller([small], container, "c2", "eth1").add()

    assert failure(caught)["code"] == 11


def test_containers_that_start_at_once_share_one_bridge(host, config):
    """A kubelet starts all containers of a machine when it boots, and the first of them makes the bridge."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(6) as pool:
        children = [stack.enter_context(spawn(["sleep", "600"], new=("net",))) for _ in range(6)]
        callers = [Caller([config], f"/proc/{child.pid}/ns/net", f"c{child.pid}") for child in children]
        home = stack.enter_context(NetNs.current())

        def add(caller: Caller) -> str:
            with inside(home):
                return caller.add()["ips"][0]["address"].partition("/")[0]

        addresses = list(pool.map(add, callers))
        for child, address in zip(children, addresses, strict=True):
            with serving(child, "hello"):
                assert ask(address) == "hello for 10.5.0.1"

    assert len(set(addresses)) == 6


def test_bridge_that_is_there_is_used(host, container, config):
    """Made by an administrator, say; it only lacks the gateway's address."""
    with Rtnetlink() as ip:
        ip.add_bridge("cni9", mac="02:00:00:00:00:42", up=True)
    address = Caller([config], container).add()["ips"][0]["address"]
    with serving(container, "web"):
        assert ask(address.partition("/")[0]) == "web for 10.5.0.1"


def test_namespace_that_is_not_there_is_an_unknown_container(host, config):
    """Code 3: there is nothing to clean up."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        Caller([config], "/run/netns/nobody").add()

    assert failure(caught)["code"] == 3


def test_host_itself_is_no_container(host, config):
    """A runtime that mixes up its namespaces must not lose the machine's network."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        Caller([config], "/proc/self/ns/net").add()

    assert failure(caught)["code"] == 4


def test_version_lists_what_is_spoken():
    """The runtime asks this first."""
    said = Caller([], "").call("VERSION", {"type": "cnlab-cni", "cniVersion": "0.4.0"})

    assert said["cniVersion"] == "0.4.0"
    assert {"0.4.0", "1.0.0", "1.1.0"} <= set(said["supportedVersions"])


def test_status_tells_whether_containers_can_be_connected(host, config, student):
    """Code 50, "not available", where whoever runs it may not."""
    caller = Caller([config], "", version="1.1.0")
    text = json.dumps({"cniVersion": "1.1.0", "name": "demo"} | config)
    denied = student.run([str(PLUGIN)], env={"CNI_COMMAND": "STATUS"}, input=text, check=False)

    assert caller.call("STATUS", config) == {}
    assert json.loads(denied.stdout)["code"] == 50


# podman, with us as its network

PODMAN = """
set -e
for directory in /run /var/lib; do mount -t tmpfs tmpfs $directory; done  # libcni caches results there
ip link set lo up
tar -C rootfs -cf image.tar .
podman="podman --root root --runroot runroot --tmpdir tmp --storage-driver vfs"
$podman import --quiet image.tar demo:1 >/dev/null
$podman run --detach --name web --cgroup-parent /$1 --publish 8080:80 \
    --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 demo:1 /bin/busybox httpd -f -p 80 -h /www >/dev/null
until busybox wget -qO- http://127.0.0.1:8080/ 2>/dev/null; do sleep 0.05; done  # until httpd listens
$podman inspect --format '{{.NetworkSettings.Networks.demo.IPAddress}}' web
$podman rm --force --time 0 web >/dev/null
ls leases/demo
ip -brief link show type veth
nft list tables
"""


def test_podman_runs_a_container_on_our_network(config, tmp_path):
    """A CNI runtime of the real world: it calls, publishes a port, believes us, and cleans up by us."""
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    (tmp_path / "rootfs/www").mkdir()
    shutil.copy(shutil.which("busybox") or "", tmp_path / "rootfs/bin")
    (tmp_path / "rootfs/www/index.html").write_text("hello from podman\n")
    (tmp_path / "net.d").mkdir()
    plugin = config | {"capabilities": {"portMappings": True}}
    (tmp_path / "net.d/demo.conflist").write_text(
        json.dumps({"cniVersion": "0.4.0", "name": "demo", "plugins": [plugin]})
    )
    (tmp_path / "containers.conf").write_text(
        '[network]\nnetwork_backend = "cni"\ndefault_network = "demo"\n'
        f'network_config_dir = "{tmp_path}/net.d"\ncni_plugin_dirs = ["{PLUGIN.parent}"]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
    )
    cgroup = f"cnlab-cni-{os.getpid()}"
    environment = os.environ | {
        "CONTAINERS_CONF": str(tmp_path / "containers.conf"),
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    try:
        done = subprocess.run(
            [
                "unshare",
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "sh",
                "-c",
                PODMAN,
                "-",
                cgroup,
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        for group in Path("/sys/fs/cgroup").glob(f"*/{cgroup}"):
            for directory in (*sorted(group.rglob("*/"), reverse=True), group):
                directory.rmdir()

    assert done.stdout.splitlines() == ["hello from podman", "10.5.0.2", "last_reserved_ip.0", "lock"], (
        done.stderr
    )
