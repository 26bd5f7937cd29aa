"""Docker Engine in the private kernel, where control groups are of version 2, with our runtime under it.

One kernel and one engine serve all tests: `GUEST` runs as a cell of a student's notebook, and each test looks
at one fact of what it told."""

from __future__ import annotations

import json

import pytest
from private_kernel import in_private_kernel
from student import Student

pytestmark = [pytest.mark.needs_uml, pytest.mark.slow]

GUEST = r"""
import json, tempfile
from pathlib import Path
from cnlab.clock import wait_until
from cnlab.containers import engine
from cnlab.containers.images import base_images
from cnlab.containers.images.layout import Layout

layout = Layout.create(tempfile.mkdtemp())
base_images.busybox(layout, "busybox:latest")
told = {}
with engine.docker_engine() as client:
    engine.load_image(client, layout, "busybox")
    options = {"runtime": "cnlab", "network_mode": "none", "detach": True}

    def run(script, **more):
        box = client.containers.run("busybox", ["sh", "-c", script], **options, **more)
        code = box.wait()["StatusCode"]
        box.reload()
        answer = (code, box.logs().decode().splitlines(), box.attrs["State"]["OOMKilled"])
        box.remove()
        return answer

    limits = {"mem_limit": "32m", "nano_cpus": 500_000_000, "pids_limit": 20, "cpu_shares": 512}
    files = "cd /sys/fs/cgroup; cat memory.max memory.swap.max cpu.max pids.max cpu.weight"
    told["limits"] = run(files, **limits)
    told["oom"] = run("tail /dev/zero", mem_limit="16m")
    told["group"] = run("cat /proc/self/cgroup; ls -d /sys/fs/cgroup/cgroup.procs")
    script = "mknod /tmp/kmsg c 1 11; cat /tmp/kmsg 2>&1; head -c 1 /dev/zero | wc -c"
    told["device"] = run(script, cap_add=["MKNOD"])
    told["seccomp"] = run("grep Seccomp: /proc/self/status; unshare -U true 2>&1; true")

    box = client.containers.run("busybox", ["sleep", "300"], name="box", **options)
    told["exec"] = [box.exec_run(["false"]).exit_code, box.exec_run(["echo", "hi"]).output.decode()]
    box.pause()
    box.reload()
    told["paused"] = box.status
    box.unpause()
    told["top"] = [row[-1] for row in box.top()["Processes"]]
    box.update(mem_limit="64m", memswap_limit="64m")
    told["update"] = box.exec_run(["cat", "/sys/fs/cgroup/memory.max"]).output.decode()
    stats = box.stats(stream=False)
    told["stats"] = [stats["pids_stats"]["current"], stats["memory_stats"]["limit"]]
    group = Path("/proc", str(box.attrs["State"]["Pid"]), "cgroup").read_text().strip().rpartition(":")[2]
    box.kill()
    told["killed"] = box.wait()["StatusCode"]
    box.remove()
    told["left"] = Path("/sys/fs/cgroup" + group).exists()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told():
    with Student() as student:
        return json.loads(in_private_kernel(student, GUEST, timeout_s=110).splitlines()[-1])


def test_limits_are_what_the_container_reads(told):
    """Half a processor; no more swap than memory, which is how Docker counts it."""
    code, lines, _ = told["limits"]

    assert (code, lines) == (0, [str(32 << 20), str(32 << 20), "50000 100000", "20", "20"])


def test_memory_beyond_the_limit_is_fatal(told):
    code, _, was_oom = told["oom"]

    assert (code, was_oom) == (137, True)


def test_container_sees_its_group_as_the_root(told):
    """A control group namespace of its own, made after it had entered the group."""
    assert told["group"][1] == ["0::/", "/sys/fs/cgroup/cgroup.procs"]


def test_devices_are_denied_by_the_filter(told):
    """A node may be made and not be opened: no file mode says so, but our eBPF program does."""
    assert told["device"][1] == ["cat: can't open '/tmp/kmsg': Operation not permitted", "1"]


def test_seccomp_profile_is_in_force(told):
    assert told["seccomp"][1] == ["Seccomp:\t2", "unshare: unshare(0x10000000): Operation not permitted"]


def test_verbs_work(told):
    assert told["exec"] == [1, "hi\n"]
    assert told["paused"] == "paused"
    assert told["top"] == ["sleep 300"]
    assert told["update"] == f"{64 << 20}\n"
    assert told["stats"] == [1, 64 << 20]
    assert told["killed"] == 137


def test_no_group_is_left(told):
    assert not told["left"]
