import os
import signal
import sys
from pathlib import Path

import pytest

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.linux import cgroups_v1
from cnlab.linux.cgroups_v1 import (
    TRANSLATION,
    CgroupV1,
    hierarchies,
    own_group,
    parse_membership,
    translate,
)
from cnlab.linux.mounts import parse_mountinfo, read_mountinfo

NAME = f"cnlab-test-{os.getpid()}"  # nobody else makes groups of that name

MOUNTINFO = """31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_controllers_of_version_one_are_found_by_their_mounts():
    """Trees may hold one controller, several, or none but a name."""
    found = {name: mount.mount_point for name, mount in hierarchies(parse_mountinfo(MOUNTINFO)).items()}

    assert found == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
    }


def test_process_has_a_place_in_every_tree():
    """In version 2 it has one place in one tree."""
    text = "9:name=systemd:/a\n4:memory:/b:c\n1:cpu,cpuacct:/d\n0::/e\n"

    assert parse_membership(text) == {
        "name=systemd": "/a",
        "memory": "/b:c",
        "cpu": "/d",
        "cpuacct": "/d",
        "": "/e",
    }


def test_limits_are_translated_line_by_line():
    """The period goes first: a quota is checked against the period that stands."""
    assert translate("cpu.max", "20000 100000") == [
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "20000"),
    ]
    assert translate("cpu.max", "max 100000")[1] == ("cpu.cfs_quota_us", "-1")
    assert translate("memory.max", "max") == [("memory.limit_in_bytes", "-1")]
    assert translate("pids.max", "10") == [("pids.max", "10")]


def test_file_without_a_translation_is_told():
    """memory.high has no like in version 1."""
    assert TRANSLATION["memory.high"] == ()
    with pytest.raises(InvalidValue, match=r"'memory.high' has no translation"):
        translate("memory.high", "1")


def test_group_without_a_tree_is_a_missing_feature(monkeypatch):
    """As on every host with version 2 only."""
    monkeypatch.setattr(cgroups_v1, "read_mountinfo", list)

    with pytest.raises(MissingFeature, match="no version 1 tree with controller 'memory' is mounted"):
        CgroupV1("demo", memory_max="64M")


def test_group_without_a_limit_is_in_no_tree():
    """In version 1 there is no directory that is just the group."""
    with pytest.raises(InvalidValue, match="needs a limit"):
        CgroupV1("demo")


@pytest.mark.parametrize("limits", [{"memory_max": "64X"}, {"cpu_max": 0.5}, {"pids_max": -1}])
def test_bad_limit_is_told_as_in_version_two(limits):
    """The same words in both."""
    with pytest.raises(InvalidValue, match="expected"):
        CgroupV1("demo", **limits)


@pytest.mark.needs_root
@pytest.mark.skipif(
    not {"cpu", "memory", "pids"} <= set(hierarchies(read_mountinfo())),
    reason="cgroup1: no version 1 trees with cpu, memory and pids are mounted",
)
class TestWithItsTrees:
    """Groups with their kernel, where it holds cpu, memory and pids in version 1."""

    def test_group_is_in_the_trees_that_its_limits_need(self):
        """One directory of the name in each."""
        with CgroupV1(NAME, memory_max="64M", pids_max=10) as group:
            assert set(group.paths) == {"memory", "pids"}
            assert group.read("memory.limit_in_bytes") == f"{64 << 20}\n"

        assert not any(path.exists() for path in group.paths.values())

    def test_program_is_in_the_group_in_every_tree(self):
        """Moved in while it waits to begin."""
        with (
            CgroupV1(NAME, memory_max="64M", pids_max=10) as group,
            group.spawn(["sleep", "60"]) as child,
        ):
            assert group.pids() == [child.pid]
            membership = parse_membership(Path(f"/proc/{child.pid}/cgroup").read_text())
            assert membership["pids"].endswith(f"/{NAME}")
            assert membership["memory"].endswith(f"/{NAME}")

    def test_limits_limit(self):
        """Memory by the OOM killer, forks by EAGAIN, CPU by throttling."""
        greedy = [sys.executable, "-ISc", "bytearray(b'x') * (64 << 20)"]
        busy = ["sh", "-c", "while :; do :; done"]
        forks = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait"]
        with CgroupV1(NAME, memory_max="24M", pids_max=5, cpu_max=(20_000, 100_000)) as group:
            assert group.run(greedy).returncode == -signal.SIGKILL
            assert "Cannot fork" in group.run(forks).stderr
            assert group.stat("memory.oom_control")["oom_kill"] == 1
            with group.spawn(busy):
                wait_until(lambda: group.stat("cpu.stat")["nr_throttled"], timeout_s=100, what="throttling")

    def test_limit_that_the_kernel_refuses_leaves_no_directory(self):
        """The quota of a child may not exceed that of its parent."""
        with CgroupV1(NAME, cpu_max=(20_000, 100_000)) as group:
            (group.paths["cpu"] / "cgroup.procs").read_text()
            existing = list(own_group("cpu").glob(f"{NAME}*/"))
            with pytest.raises(FileExistsError):
                CgroupV1(NAME, pids_max=3, cpu_max=(20_000, 100_000)).__enter__()

            assert list(own_group("cpu").glob(f"{NAME}*/")) == existing
            assert not (own_group("pids") / NAME).exists()

    def test_end_of_block_kills_one_by_one(self):
        """There is no cgroup.kill; who forks meanwhile is found the next time."""
        program = ["sh", "-c", "setsid sleep 60 & setsid sleep 60 & wait"]
        with CgroupV1(NAME, pids_max=20) as group, group.spawn(program):
            pass

        assert not any(path.exists() for path in group.paths.values())
