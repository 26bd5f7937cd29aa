"""Docker Engine in the private kernel, where control groups are of version 2, with our runtime under it.

One kernel and one engine serve all tests: `GUEST` runs as a cell of a student's notebook, and each test looks
at one fact of what it told."""

from __future__ import annotations

import json

import pytest
from private_kernel import in_private_kernel
from student import Student

pytestmark = [pytest.mark.needs_uml, pytest.mark.slow, pytest.mark.timeout(300)]

GUEST = r"""
import contextlib, json, tempfile, urllib.request
from pathlib import Path
from cnlab.clock import wait_until
from cnlab.containers import engine
from cnlab.containers.images import base_images
from cnlab.containers.images.layout import Layout

layout = Layout.create(tempfile.mkdtemp())
base_images.busybox(layout, "busybox:latest")
PATIENT = "trap 'exit 3' TERM; httpd -h /etc; while :; do sleep 0.1; done"
told = {}

def number(file, key):
    return dict(line.split() for line in file.read_text().splitlines())[key]

def fetch(url):
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).read()

def converse(stream, typed):
    "Type at a terminal, and return all that it showed."
    shown = b""
    with contextlib.closing(stream):
        stream._sock.sendall(typed)
        while part := stream._sock.recv(4096):
            shown += part
    return shown.decode()

with engine.docker_engine() as client:
    engine.load_image(client, layout, "busybox")
    options = {"runtime": "cnlab", "network_mode": "none", "detach": True}

    def run(script, **more):
        box = client.containers.run("busybox", ["sh", "-c", script], **options, **more)
        code = box.wait()["StatusCode"]
        answer = (code, box.logs().decode().splitlines())
        box.remove()
        return answer

    limits = {"mem_limit": "32m", "nano_cpus": 500_000_000, "pids_limit": 20, "cpu_shares": 512}
    files = "cd /sys/fs/cgroup; cat memory.max memory.swap.max cpu.max pids.max cpu.weight"
    told["limits"] = run(files, **limits)
    counters = Path("/proc/vmstat")
    before = number(counters, "oom_kill")
    told["oom"] = [run("exec tail /dev/zero", mem_limit="16m")[0], before, number(counters, "oom_kill")]
    script = "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/cgroup.procs; grep Seccomp: /proc/self/status"
    script += "; unshare -U true 2>&1"
    script += "; mknod /tmp/kmsg c 1 11; cat /tmp/kmsg 2>&1; head -c 1 /dev/zero | wc -c"
    told["seen"] = run(script, cap_add=["MKNOD"])[1]

    script = "ps -o args; grep CapBnd /proc/self/status; touch /x; tty; read word; echo word is $word; exit 4"
    arguments = {**options, "tty": True, "stdin_open": True}
    arguments |= {"init": True, "read_only": True, "cap_drop": ["ALL"]}
    box = client.containers.create("busybox", ["sh", "-c", script], **arguments)
    stream = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    box.start()
    told["terminal"] = [converse(stream, b"hello\n"), box.wait()["StatusCode"]]
    box.remove()

    box = client.containers.run(
        "busybox", ["sh", "-c", PATIENT], name="box", runtime="cnlab", detach=True, ports={"80/tcp": 8080}
    )
    told["page"] = wait_until(lambda: fetch("http://127.0.0.1:8080/passwd"), timeout_s=60).decode()
    told["exec"] = [box.exec_run(["false"]).exit_code, box.exec_run(["echo", "hi"]).output.decode()]
    script = "tty; read word; exit $word"
    command = client.api.exec_create(box.id, ["sh", "-c", script], stdin=True, tty=True)["Id"]
    shown = converse(client.api.exec_start(command, tty=True, socket=True), b"5\n")
    told["exec at a terminal"] = [shown, client.api.exec_inspect(command)["ExitCode"]]
    told["top"] = box.top()["Processes"][0][-1]

    box.reload()
    process = Path("/proc", str(box.attrs["State"]["Pid"]))
    group = Path("/sys/fs/cgroup" + process.joinpath("cgroup").read_text().strip().rpartition(":")[2])
    ticks = process / "root/tmp/ticks"
    box.exec_run(["sh", "-c", "until test -e /tmp/stop; do echo >> /tmp/ticks; done"], detach=True)
    wait_until(lambda: ticks.exists() and ticks.stat().st_size, timeout_s=60)
    stats = box.stats(stream=False, one_shot=True)
    told["used"] = [stats["cpu_stats"]["cpu_usage"]["total_usage"], stats["memory_stats"]["usage"]]
    box.pause()
    told["frozen"] = [number(group / "cgroup.events", "frozen")]
    counted = ticks.stat().st_size
    box.reload()
    told["paused"] = [box.status, ticks.stat().st_size - counted]
    box.unpause()
    told["frozen"].append(number(group / "cgroup.events", "frozen"))
    wait_until(lambda: ticks.stat().st_size > counted, timeout_s=60, what="the counter to go on")
    ticks.with_name("stop").touch()

    box.update(mem_limit="64m", memswap_limit="64m")
    told["update"] = box.exec_run(["cat", "/sys/fs/cgroup/memory.max"]).output.decode()
    stats = box.stats(stream=False, one_shot=True)
    told["stats"] = [stats["pids_stats"]["current"], stats["memory_stats"]["limit"]]
    box.restart(timeout=60)
    box.reload()
    told["restarted"] = [box.status, str(box.attrs["State"]["Pid"]) != process.name]
    wait_until(lambda: fetch("http://127.0.0.1:8080/passwd"), timeout_s=60, what="httpd, after the trap")
    box.stop(timeout=60)
    told["stopped"] = box.wait()["StatusCode"]
    box.start()
    told["group before"] = group.exists()
    box.kill()
    told["killed"] = box.wait()["StatusCode"]
    box.remove()
    told["left"] = group.exists()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told():
    with Student() as student:
        return json.loads(in_private_kernel(student, GUEST, timeout_s=280).splitlines()[-1])


def test_limits_are_what_the_container_reads(told):
    """Half a processor; no more swap than memory, which is how Docker counts it."""
    assert told["limits"] == [0, [str(32 << 20), str(32 << 20), "50000 100000", "20", "20"]]


def test_memory_beyond_the_limit_is_fatal(told):
    """The kernel has counted it, on a machine where nothing else grows.

    Whether the engine says OOMKilled is a race of containerd with the exit, as it is with runc.

    See: https://github.com/containerd/containerd/issues/8893
    """
    code, before, after = told["oom"]

    assert (code, int(after) - int(before)) == (137, 1)


def test_container_sees_its_group_as_the_root(told):
    """A control group namespace of its own, made after it had entered the group."""
    assert told["seen"][:2] == ["0::/", "/sys/fs/cgroup/cgroup.procs"]


def test_devices_are_denied_by_the_filter(told):
    """A node may be made and not be opened: no file mode says so, but our eBPF program does."""
    assert told["seen"][4:] == ["cat: can't open '/tmp/kmsg': Operation not permitted", "1"]


def test_seccomp_profile_is_in_force(told):
    assert told["seen"][2:4] == ["Seccomp:\t2", "unshare: unshare(0x10000000): Operation not permitted"]


def test_options_are_heard(told):
    """``--init``, ``--cap-drop`` and ``--read-only``."""
    shown, _ = told["terminal"]  # the echo of what is typed may stand between these

    assert "/sbin/docker-init -- sh -c ps" in shown
    assert "CapBnd:\t0000000000000000\r\n" in shown
    assert "touch: /x: Read-only file system\r\n" in shown


def test_run_at_a_terminal(told):
    """``-it``: what is typed arrives, what is printed comes back."""
    shown, code = told["terminal"]

    assert code == 4
    assert "/dev/pts/0\r\n" in shown
    assert shown.endswith("word is hello\r\n")


def test_exec_at_a_terminal(told):
    shown, code = told["exec at a terminal"]

    assert code == 5
    assert "/dev/pts/0\r\n" in shown


def test_exec_brings_back_output_and_exit_code(told):
    assert told["exec"] == [1, "hi\n"]


def test_published_port_answers(told):
    assert told["page"].startswith("root:")


def test_pause_stops_and_unpause_goes_on(told):
    """The kernel says that the group is frozen, and what a process in it counts stands still."""
    assert told["frozen"] == ["1", "0"]
    assert told["paused"] == ["paused", 0]


def test_stats_are_the_container_s(told):
    assert all(used > 0 for used in told["used"])
    assert told["stats"][0] >= 1
    assert told["stats"][1] == 64 << 20


def test_top_lists_what_runs(told):
    assert told["top"].startswith("sh -c trap")


def test_update_changes_limits(told):
    assert told["update"] == f"{64 << 20}\n"


def test_restart_starts_again(told):
    assert told["restarted"] == ["running", True]


def test_stop_asks_and_kill_does_not(told):
    assert (told["stopped"], told["killed"]) == (3, 137)


def test_no_group_is_left(told):
    assert (told["group before"], told["left"]) == (True, False)
