"""``docker run`` with our runtime: its options do in the container what they say."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

import pytest

from cnlab.clock import wait_until
from cnlab.linux.netns import NetNs, inside
from cnlab.linux.rtnetlink import Rtnetlink

pytestmark = pytest.mark.needs_root


def lines_of(status):
    return {key: value.strip() for key, _, value in (line.partition(":") for line in status.splitlines())}


def test_program_runs_and_its_output_comes_back(docker):
    assert docker("run", "--rm", "busybox", "echo", "hello") == "hello"


def test_exit_code_comes_back(dockerd, docker):
    assert dockerd.docker("run", "--rm", "busybox", "sh", "-c", "exit 7", check=False).returncode == 7


def test_missing_program_is_told(dockerd, docker):
    """127 and 126, as a shell has it; the engine knows them by the runtime's words."""
    missing = dockerd.docker("run", "--rm", "busybox", "nosuch", check=False)
    directory = dockerd.docker("run", "--rm", "busybox", "/etc", check=False)

    assert (missing.returncode, directory.returncode) == (127, 126)
    assert 'exec: "nosuch": executable file not found in $PATH' in missing.stderr
    assert 'exec: "/etc": permission denied' in directory.stderr


def test_input_is_passed_on(dockerd, docker):
    assert (
        dockerd.docker("run", "--rm", "-i", "busybox", "cat", input="there and back").stdout
        == "there and back"
    )


def test_terminal_is_one(docker, dockerd):
    """``-it``: the engine gets the terminal's other end through the console socket."""
    command = ["run", "-d", "-t", "--name", "terminal", "busybox", "sh", "-c", "tty; test -t 0 && echo yes"]
    docker(*command)
    docker("wait", "terminal")

    assert docker("logs", "terminal").split() == ["/dev/pts/0", "yes"]


def test_network_of_the_engine_is_there(docker):
    """It is plugged in by a prestart hook, in the runtime's namespaces."""
    assert "inet 172.29.7." in docker("run", "--rm", "busybox", "ip", "address", "show", "eth0")


def test_published_port_answers(dockerd, docker):
    """To the engine's own machine, and to another machine on a wire to it, whose packets it forwards."""
    docker("run", "-d", "-p", "8080:80", "busybox", "sh", "-c", "while :; do echo hello | nc -l -p 80; done")

    def ask(address):
        with (
            contextlib.suppress(OSError),
            socket.create_connection((address, 8080), timeout=10) as connection,
        ):
            return connection.recv(100)

    with NetNs.create() as outside:
        dockerd.in_its_network(lambda: connect_by_wire(outside))
        near = wait_until(lambda: dockerd.in_its_network(lambda: ask("127.0.0.1")), timeout_s=60)
        with inside(outside):
            far = wait_until(lambda: ask("192.0.2.1"), timeout_s=60)

    assert (near, far) == (b"hello\n", b"hello\n")


def connect_by_wire(other):
    """From this network namespace, which becomes 192.0.2.1, to the other, which becomes 192.0.2.2."""
    with Rtnetlink() as here, Rtnetlink(other) as there:
        here.add_veth("wan0", peer="eth0", peer_netns=other, up=True)
        here.add_address("wan0", "192.0.2.1/24")
        there.set_link("eth0", up=True)
        there.add_address("eth0", "192.0.2.2/24")


def test_published_udp_port_answers(dockerd, docker):
    """What comes in there is what a program at that port of the container gets, and sends back."""
    docker("run", "-d", "--name", "udp", "-p", "5353:53/udp", "busybox", "sleep", "60")
    pid = docker("inspect", "--format", "{{.State.Pid}}", "udp")

    def answers():
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(b"hello", ("127.0.0.1", 5353))
            data, caller = server.recvfrom(100)
            server.sendto(data.upper(), caller)
            client.settimeout(10)
            return client.recv(100)

    with inside(int(pid)):
        server = socket.socket(type=socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", 53))
    with server:
        server.settimeout(10)
        assert dockerd.in_its_network(answers) == b"HELLO"


def test_init_reaps(docker):
    """``--init`` puts a small init before the program."""
    printed = docker("run", "--rm", "--init", "busybox", "ps")

    assert [" ".join(line.split()[2:]) for line in printed.splitlines()[1:]] == [
        "/sbin/docker-init -- ps",
        "ps",
    ]


def test_read_only_root_cannot_be_written(dockerd, docker):
    options = ["--read-only", "--tmpfs", "/tmp"]
    done = dockerd.docker(
        "run", "--rm", *options, "busybox", "sh", "-c", "touch /tmp/x && touch /y", check=False
    )

    assert done.stderr == "touch: /y: Read-only file system\n"


def test_capabilities_are_those_of_docker(docker):
    """Fourteen by default; ``--cap-drop`` and ``--cap-add`` change them."""
    show = ["busybox", "grep", "Cap", "/proc/self/status"]
    default = lines_of(docker("run", "--rm", *show))
    none = lines_of(docker("run", "--rm", "--cap-drop", "all", *show))
    one = lines_of(docker("run", "--rm", "--cap-drop", "all", "--cap-add", "net_raw", *show))

    assert {default[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"00000000a80425fb"}
    assert set(none.values()) == {"0000000000000000"}
    assert one["CapBnd"] == "0000000000002000"


def test_user_has_no_capabilities(docker):
    printed = docker(
        "run", "--rm", "--user", "user", "busybox", "sh", "-c", "id; grep CapEff /proc/self/status"
    )

    assert printed.splitlines() == [
        "uid=1000(user) gid=1000(user) groups=29(audio),1000(user)",
        "CapEff:\t0000000000000000",
    ]


def test_default_seccomp_profile_refuses(docker):
    """unshare(CLONE_NEWUSER) is allowed to root by the kernel, not by Docker's profile."""
    script = "grep Seccomp: /proc/self/status; unshare -U true 2>&1"

    assert docker("run", "--rm", "busybox", "sh", "-c", f"{script}; true").splitlines() == [
        "Seccomp:\t2",
        "unshare: unshare(0x10000000): Operation not permitted",
    ]
    assert (
        docker("run", "--rm", "--security-opt", "seccomp=unconfined", "busybox", "sh", "-c", script)
        == "Seccomp:\t0"
    )


def test_own_seccomp_profile_counts(dockerd, docker, tmp_path):
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    option = ["--security-opt", f"seccomp={tmp_path}/profile.json"]
    done = dockerd.docker("run", "--rm", *option, "busybox", "mkdir", "/tmp/x", check=False)

    assert done.stderr == "mkdir: can't create directory '/tmp/x': Invalid cross-device link\n"


def test_no_new_privileges(docker):
    option = ["--security-opt", "no-new-privileges"]

    assert (
        docker("run", "--rm", *option, "busybox", "grep", "NoNewPrivs", "/proc/self/status")
        == "NoNewPrivs:\t1"
    )


def test_memory_beyond_the_limit_is_fatal(docker):
    """To the process that wants it; the kernel has counted it in the container's own group."""
    script = "tail /dev/zero; echo $?; grep -E 'oom_kill ' /sys/fs/cgroup/memory/memory.oom_control"
    printed = docker("run", "--rm", "-m", "16m", "busybox", "sh", "-c", script)

    assert printed.splitlines() == ["137", "oom_kill 1"]


def test_container_that_is_out_of_memory_ends_as_by_sigkill(dockerd, docker):
    """The engine's ``OOMKilled`` is not looked at: containerd's watch for it runs a race with the exit."""
    done = dockerd.docker("run", "--rm", "-m", "16m", "busybox", "tail", "/dev/zero", check=False)

    assert done.returncode == 137


def test_limits_are_in_the_container_s_groups(docker, dockerd):
    """As the container itself reads them."""
    docker(
        "run",
        "-d",
        "--name",
        "limited",
        "-m",
        "32m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "7",
        "busybox",
        "sleep",
        "60",
    )
    name = docker("inspect", "--format", "{{.Id}}", "limited")
    groups = f"/sys/fs/cgroup/%s{dockerd.cgroup_parent}/{name}/%s"

    def read(controller, file):
        return Path(groups % (controller, file)).read_text().strip()

    assert read("memory", "memory.limit_in_bytes") == str(32 << 20)
    assert read("cpu", "cpu.cfs_quota_us") == "50000"
    assert read("pids", "pids.max") == "7"


def test_fork_bomb_stays_within_its_limit(dockerd, docker):
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; true"
    done = dockerd.docker("run", "--rm", "--pids-limit", "4", "busybox", "sh", "-c", script, check=False)

    assert "can't fork: Resource temporarily unavailable" in done.stderr


def test_system_is_masked(docker):
    """Paths that tell of the host are hidden or read-only."""
    script = (
        "echo x > /proc/sys/kernel/hostname; cat /proc/timer_list; mount -t tmpfs x /tmp; ls /sys/firmware"
    )

    assert docker("run", "--rm", "busybox", "sh", "-c", f"{{ {script}; }} 2>&1; true").splitlines() == [
        "sh: can't create /proc/sys/kernel/hostname: Read-only file system",
        "mount: permission denied (are you root?)",
    ]


def test_privileged_container_is_root(docker):
    script = "mount -t tmpfs x /tmp && touch /tmp/x; grep Seccomp: /proc/self/status"
    script += "; test -e /dev/kmsg && echo devices"

    assert docker("run", "--rm", "--privileged", "busybox", "sh", "-c", script).split() == [
        "Seccomp:",
        "0",
        "devices",
    ]


def test_files_of_the_host_are_mounted(docker, tmp_path):
    (tmp_path / "note").write_text("from the host")
    volume = ["-v", f"{tmp_path}:/host:ro"]

    assert docker(
        "run", "--rm", *volume, "busybox", "sh", "-c", "cat /host/note; touch /host/x 2>&1; true"
    ) == ("from the hosttouch: /host/x: Read-only file system")


def test_namespaces_can_be_shared(docker):
    """By path: those of another container."""
    docker("run", "-d", "--name", "first", "--hostname", "first", "busybox", "sleep", "60")
    printed = docker(
        "run",
        "--rm",
        "--network",
        "container:first",
        "--pid",
        "container:first",
        "busybox",
        "sh",
        "-c",
        "ps; hostname",
    )

    assert printed.splitlines()[1].split()[2:] == ["sleep", "60"]
    assert printed.splitlines()[-1] == "first"


def test_small_options_reach_the_process(docker):
    """Working directory, environment, host name, resource limits, OOM score, sysctl."""
    options = [
        "-w",
        "/tmp",
        "-e",
        "FOO=bar",
        "--hostname",
        "box",
        "--ulimit",
        "nofile=99",
        "--oom-score-adj",
        "500",
    ]
    options += ["--sysctl", "net.ipv4.ip_unprivileged_port_start=0", "--shm-size", "1m"]
    script = "pwd; echo $FOO; hostname; ulimit -n; cat /proc/self/oom_score_adj"
    script += "; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; df -k /dev/shm | tail -1"

    printed = docker("run", "--rm", *options, "busybox", "sh", "-c", script).splitlines()

    assert printed[:6] == ["/tmp", "bar", "box", "99", "500", "0"]
    assert printed[6].split()[1] == "1024"
