"""Containers of a student: in the private kernel, whose control groups are version 2."""

from __future__ import annotations

import json
from typing import Any

import pytest
from private_kernel import in_private_kernel
from student import Student

GUEST = r"""
import json, os, tempfile
from pathlib import Path
from cnlab.containers.images import base_images
from cnlab.containers.container import Container, run
from cnlab.containers.images.layout import Layout
from cnlab.containers.network import Network
from cnlab.linux.idmaps import IdMap
from cnlab.linux.mounts import read_mountinfo
from cnlab.linux.processes import read_process

def traces():
    places = (*Path("/sys/fs/cgroup").iterdir(), *Path("/sys/class/net").iterdir(), *Path("/tmp").iterdir())
    return sorted([mount.mount_point for mount in read_mountinfo()] + [str(place) for place in places])

told = {}
layout = Layout.create(tempfile.mkdtemp())
image = base_images.busybox(layout)
told["said"] = run(image, "echo hello").decode()
before = traces()
with Container(image, ["sleep", "1000"], mem_limit="16m", pids_limit=5, nano_cpus=500_000_000) as container:
    files = ("memory.max", "pids.max", "cpu.max")
    told["limits"] = [(container.cgroup / file).read_text().strip() for file in files]
    seen = container.exec_run(["cat", "/sys/fs/cgroup/memory.max", "/proc/self/cgroup"])
    told["seen inside"] = seen.output.decode()
    container.pause()
    told["frozen"] = "frozen 1" in (container.cgroup / "cgroup.events").read_text()
    container.unpause()
with Container(image, ["sh", "-c", "head -c 64m /dev/zero | tail -c 64m"], mem_limit="16m") as container:
    told["too much"] = container.wait()["StatusCode"]
with Container(image, ["sleep", "1000"], id_map=[IdMap(0, 100_000, 65_536)]) as container:
    told["root"] = [container.exec_run("id -u").output.decode().strip(), read_process(container.pid).uid]
with Network("net0") as network, Container(image, ["httpd", "-f", "-h", "/etc"], name="web", network=network):
    told["page"] = run(image, ["wget", "-qO-", "http://web/passwd"], network=network).decode()
told["left"] = [place for place in traces() if place not in before]
print(json.dumps(told))
"""

pytestmark = [pytest.mark.needs_uml, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the cell of a student's notebook told."""
    with Student() as student:
        return json.loads(in_private_kernel(student, GUEST, timeout_s=180).splitlines()[-1])


def test_container_runs_for_a_student(told):
    assert told["said"] == "hello\n"


def test_limits_are_the_files_of_version_2(told):
    assert told["limits"] == [str(16 << 20), "5", "50000 100000"]


def test_container_sees_its_group_as_the_root(told):
    """The cgroup namespace hides where in the tree it is."""
    assert told["seen inside"] == f"{16 << 20}\n0::/\n"


def test_paused_is_frozen(told):
    assert told["frozen"]


def test_beyond_its_memory_it_is_killed(told):
    assert told["too much"] == 137


def test_root_inside_is_another_user_outside(told):
    assert told["root"] == ["0", 100_000]


def test_containers_find_each_other_by_name(told):
    assert told["page"].startswith("root:")


def test_nothing_is_left(told):
    assert told["left"] == []
