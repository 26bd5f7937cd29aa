import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from private_kernel import in_private_kernel
from student import Student

from cnlab.clock import wait_until
from cnlab.containers.runtime.cgroup_trees import find_trees, group_path, parse_trees
from cnlab.containers.runtime.cgroups import Cgroups
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.host import find_program
from cnlab.linux.namespaces import spawn

HYBRID = """31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /elsewhere rw,relatime - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""

ABOVE = f"cnlab-test-{os.getpid()}"  # the group that holds those of these tests, and nobody else's

has_version_1 = pytest.mark.skipif(
    all(tree.version == 2 for tree in find_trees()), reason="this host has cgroup v2 alone"
)


def test_trees_are_found_by_their_mounts():
    """The first mount of each counts; the name of a tree says how to mount it again."""
    trees = {tree.name: (tree.version, tree.mount_point, tree.options) for tree in parse_trees(HYBRID)}

    assert trees == {
        "cpu,cpuacct": (1, "/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
        "name=systemd": (1, "/sys/fs/cgroup/systemd", "none,name=systemd"),
        "": (2, "/sys/fs/cgroup/unified", ""),
    }


def test_path_of_the_spec_is_kept():
    """Absolute paths are below the mount points, whoever asks; relative ones are ours to place."""
    assert group_path("/docker/abc", "abc") == "/docker/abc"
    assert group_path("//docker//abc/", "abc") == "/docker/abc"
    assert group_path("abc", "id") == "cnlab/abc"
    assert group_path(None, "id") == "cnlab-id"


@pytest.mark.parametrize("path", ["/", "/../a", "a/./b", "/a\nb"])
def test_path_that_leaves_the_tree_is_refused(path):
    with pytest.raises(InvalidValue, match="is no group of its own"):
        group_path(path, "id")


def test_path_for_systemd_is_refused_with_what_to_do():
    with pytest.raises(InvalidValue, match=r"native\.cgroupdriver=cgroupfs"):
        group_path("system.slice:docker:abc", "abc")


@contextlib.contextmanager
def groups(resources=None, *, path=f"/{ABOVE}/demo"):
    made = Cgroups.create(path, "demo", resources or {})
    try:
        yield made
    finally:
        made.signal_all(signal.SIGKILL)
        made.remove()


@contextlib.contextmanager
def member(made, program=("sleep", "60")):
    with spawn(program) as child:
        made.enter(child.pid)
        yield child


def read(made, controller, file):
    return Path(made.directory_of(controller), file).read_text().strip()


@pytest.mark.needs_root
@has_version_1
class TestVersion1:
    """On a host with version 1 trees."""

    def test_limits_are_in_the_files(self):
        given = {
            "memory": {"limit": 32 << 20, "swap": 64 << 20, "swappiness": 10},
            "cpu": {"shares": 512, "quota": 20_000, "cpus": "0"},
            "pids": {"limit": 20},
        }
        with groups(given) as made:
            found = [
                read(made, "memory", "memory.limit_in_bytes"),
                read(made, "memory", "memory.memsw.limit_in_bytes"),
                read(made, "memory", "memory.swappiness"),
                read(made, "cpu", "cpu.shares"),
                read(made, "cpu", "cpu.cfs_quota_us"),
                read(made, "cpuset", "cpuset.cpus"),
                read(made, "pids", "pids.max"),
            ]

        assert found == [str(32 << 20), str(64 << 20), "10", "512", "20000", "0", "20"]

    def test_memory_may_grow_and_shrink(self):
        """Memory may never exceed memory with swap, so the order of writing depends on the direction."""
        with groups({"memory": {"limit": 32 << 20, "swap": 32 << 20}}) as made:
            made.apply({"memory": {"limit": 128 << 20, "swap": 256 << 20}})
            made.apply({"memory": {"limit": 16 << 20, "swap": 16 << 20}})
            found = read(made, "memory", "memory.limit_in_bytes")

        assert found == str(16 << 20)

    def test_update_keeps_what_it_does_not_name(self):
        with groups({"pids": {"limit": 20}, "cpu": {"shares": 512}}) as made:
            made.apply({"pids": {"limit": -1}})

            assert (read(made, "pids", "pids.max"), read(made, "cpu", "cpu.shares")) == ("max", "512")

    def test_process_is_in_every_tree(self):
        with groups() as made, member(made) as child:
            lines = Path(f"/proc/{child.pid}/cgroup").read_text().splitlines()

            assert len([line for line in lines if line.endswith(f":/{ABOVE}/demo")]) == len(made.directories)
            assert made.pids() == [child.pid]

    def test_caller_enters_by_itself(self):
        """What a container's first process does before it leaves the host's view of the trees."""

        def enter():
            made.enter_self()
            print(Path("/proc/self/cgroup").read_text())

        with groups() as made, spawn(enter, capture=True) as child:
            assert child.stdout.read().count(f":/{ABOVE}/demo\n") == len(made.directories)

    def test_devices_are_denied(self):
        with groups({"devices": [{"allow": False, "access": "rwm"}]}) as made:
            allowed = read(made, "devices", "devices.list").splitlines()

            def attempt():
                made.enter_self()
                os.close(os.open("/dev/null", os.O_RDWR))
                os.open("/dev/kmsg", os.O_RDONLY)

            with spawn(attempt, capture=True) as child:
                complaint = child.stderr.read()

        assert "c 1:3 rwm" in allowed
        assert "Operation not permitted: '/dev/kmsg'" in complaint

    def test_frozen_process_can_be_killed(self):
        """The version 1 freezer holds SIGKILL back, so it must be thawed."""
        with groups() as made, member(made) as child:
            made.freeze()
            assert made.is_frozen
            made.signal_all(signal.SIGKILL)

            assert child.wait(timeout_s=60) == -signal.SIGKILL
            assert not made.is_frozen

    def test_signal_leaves_frozen_what_was_frozen(self):
        with groups() as made, member(made):
            made.freeze()
            made.signal_all(signal.SIGUSR1)
            was_frozen = made.is_frozen
            made.thaw()

        assert was_frozen

    def test_signal_reaches_processes_that_fork(self):
        """A list of processes is stale when it is read, unless nobody can fork meanwhile."""
        with groups({"pids": {"limit": 100}}) as made:

            def multiply():
                """For ever: at the limit, too, each process goes on to try."""
                made.enter_self()
                while True:
                    with contextlib.suppress(BlockingIOError):
                        os.fork()

            with spawn(multiply, new=["pid"]) as init:
                wait_until(lambda: len(made.pids()) > 20, timeout_s=60)
                made.signal_all(signal.SIGKILL)
                wait_until(lambda: not made.pids(), timeout_s=60)
                assert init.wait(timeout_s=60) == -signal.SIGKILL

    def test_stats_count_what_was_used(self):
        burn = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 60"
        with groups({"pids": {"limit": 20}, "memory": {"limit": 64 << 20}}) as made:

            def enter():
                """By itself: a shell that is moved may have forked before, and its child stays outside."""
                made.enter_self()
                os.execvp("sh", ["sh", "-c", burn])

            with spawn(enter):
                wait_until(lambda: len(made.pids()) == 2, timeout_s=60)
                stats = made.stats()

        assert stats["pids"] == {"current": 2, "limit": 20}
        assert stats["cpu"]["usage"]["total"] > 1_000_000
        assert stats["memory"]["usage"]["limit"] == 64 << 20
        assert stats["memory"]["swap"]["limit"] == 2**64 - 1
        assert 0 < stats["memory"]["usage"]["usage"] <= stats["memory"]["usage"]["max"]

    def test_object_survives_from_one_command_to_the_next(self):
        with groups() as made, member(made) as child:
            same = Cgroups.from_json(json.loads(json.dumps(made.to_json())))

            assert same.pids() == [child.pid]

    def test_nothing_is_left(self):
        """Neither the groups, nor those above, nor what the container made below."""
        with groups() as made:
            for directory in made.directories:
                os.makedirs(f"{directory}/inner/most")
        made.remove()

        left = [tree.mount_point for tree in find_trees() if Path(tree.mount_point, ABOVE).exists()]
        assert left == []

    def test_group_above_stays_with_the_others_in_it(self):
        with groups(path=f"/{ABOVE}/one"):
            with groups(path=f"/{ABOVE}/two") as made:
                above = [os.path.dirname(directory) for directory in made.directories]
            assert all(map(os.path.isdir, above))

    def test_group_of_somebody_else_is_not_touched(self):
        """Its limits may be the administrator's, so it is neither changed nor removed."""
        with groups() as made:
            with pytest.raises(FileExistsError) as caught:
                Cgroups.create(f"/{ABOVE}/demo", "demo", {"pids": {"limit": 1}})

            assert read(made, "pids", "pids.max") == "max"
        assert caught.value.__notes__ == ["Hint: choose another cgroupsPath, or remove what was left there"]

    def test_failure_leaves_nothing(self):
        with pytest.raises(OSError, match=r"write\(.*cpuset\.cpus, '4000'\)") as caught:
            Cgroups.create(f"/{ABOVE}/demo", "demo", {"cpu": {"cpus": "4000"}})

        assert caught.value.errno in (errno.EINVAL, errno.ERANGE)
        assert not any(Path(tree.mount_point, ABOVE).exists() for tree in find_trees())

    def test_missing_controller_is_told(self):
        given = {"network": {"classID": 1}}
        with pytest.raises(MissingFeature, match="no group with controller 'net_cls'"):
            Cgroups.create(f"/{ABOVE}/demo", "demo", given)

    def test_group_in_use_is_not_removed(self, monkeypatch):
        """Somebody who still runs there is told, not lost."""
        monkeypatch.setattr("cnlab.containers.runtime.cgroups._TIMEOUT_S", 0.01)
        with (
            groups() as made,
            member(made),
            pytest.raises(OSError, match=r"rmdir\(.*\): Device or resource busy"),
        ):
            made.remove()

    def test_mounts_show_each_tree(self):
        with groups() as made:
            shown = {name: (options, group) for name, options, group in made.mounts()}

        assert shown["systemd"] == ("none,name=systemd", f"/sys/fs/cgroup/systemd/{ABOVE}/demo")
        assert shown["memory"] == ("memory", f"/sys/fs/cgroup/memory/{ABOVE}/demo")


@pytest.mark.as_student
@has_version_1
def test_user_without_rights_has_no_groups():
    """Rootless without delegation: a container runs, uncounted; a limit that nobody would hold is refused."""
    made = Cgroups.create(None, "demo", {"devices": [{"allow": False}]})

    assert made.directories == made.pids() == []
    made.signal_all(signal.SIGTERM)
    made.remove()
    with pytest.raises(MissingFeature, match="no group with controller 'memory'"):
        Cgroups.create(None, "demo", {"memory": {"limit": 1 << 20}})


# What happens in a private kernel, which has version 2: one boot, one answer for each test.
GUEST = """
import contextlib, json, os, signal, time
from cnlab.containers.runtime.cgroups import Cgroups
from cnlab.linux import syscalls
from cnlab.linux.namespaces import spawn

def read(file):
    with open(f"{made.directories[0]}/{file}") as lines:
        return lines.read().strip()

def complaint(attempt):
    try:
        return str(attempt())
    except Exception as error:
        return f"{type(error).__name__}: {error}"

found = {}
given = {
    "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 8 << 20},
    "cpu": {"shares": 512, "quota": 50000},
    "pids": {"limit": 20},
    "unified": {"memory.high": str(48 << 20)},
    "devices": [{"allow": False, "access": "rwm"}],
}
made = Cgroups.create("/cnlab-test/demo", "demo", given)
files = ("memory.max", "memory.swap.max", "memory.low", "memory.high", "cpu.max", "cpu.weight", "pids.max")
found["limits"] = {file: read(file) for file in files}
found["mounts"] = made.mounts()

birth = made.birth_fd()
pid, pidfd = syscalls.clone3(cgroup_fd=birth)
if pid == 0:
    time.sleep(60)
    os._exit(0)
found["born"] = made.pids() == [pid]
made.freeze()
found["frozen"] = (made.is_frozen, "frozen 1" in read("cgroup.events"))
found["pids"] = made.stats()["pids"]
found["limit"] = made.stats()["memory"]["usage"]["limit"]
made.signal_all(signal.SIGKILL)
found["killed"] = os.waitpid(pid, 0)[1]
made.thaw()

def attempt():
    made.enter_self()
    os.close(os.open("/dev/null", os.O_RDWR))
    os.open("/dev/kmsg", os.O_RDONLY)

with spawn(attempt, capture=True) as child:
    found["device"] = child.stderr.read()
made.apply({"pids": {"limit": -1}})
found["update"] = (read("pids.max"), read("memory.max"))
os.mkdir(made.directories[0] + "/inner")
made.remove()
found["left"] = os.path.exists("/sys/fs/cgroup/cnlab-test")
found["cpuset"] = complaint(lambda: Cgroups.create("/cnlab-test/x", "x", {"cpu": {"cpus": "0"}}))
found["left after failure"] = os.path.exists("/sys/fs/cgroup/cnlab-test")

# delegation: a user who owns a group makes groups below his own
os.makedirs("/sys/fs/cgroup/owned")
for file in ("", "/cgroup.procs", "/cgroup.subtree_control"):
    os.chown("/sys/fs/cgroup/owned" + file, 1000, 1000)

def rootless():
    with open("/sys/fs/cgroup/owned/cgroup.procs", "w") as procs:
        procs.write("0")
    os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
    own = Cgroups.create(None, "demo", {"devices": [{"allow": False}]})
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
    own.enter(pid)
    print(own.directories, own.pids() == [pid])
    own.signal_all(9)
    os.waitpid(pid, 0)
    own.remove()
    print(complaint(lambda: Cgroups.create(None, "demo", {"memory": {"limit": 1 << 20}})))

with spawn(rootless, capture=True) as child:
    found["delegated"] = child.stdout.read().splitlines() + child.stderr.read().splitlines()
os.rmdir("/sys/fs/cgroup/owned")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def version_2():
    with Student() as student:
        return json.loads(in_private_kernel(student, GUEST))


@pytest.mark.needs_uml
class TestVersion2:
    """In a private kernel."""

    def test_limits_are_in_the_files(self, version_2):
        assert version_2["limits"] == {
            "memory.max": str(64 << 20),
            "memory.swap.max": str(32 << 20),
            "memory.low": str(8 << 20),
            "memory.high": str(48 << 20),
            "cpu.max": "50000 100000",
            "cpu.weight": "20",
            "pids.max": "20",
        }

    def test_process_is_born_in_the_group(self, version_2):
        """CLONE_INTO_CGROUP: there is no moment in which it runs unlimited."""
        assert version_2["born"]

    def test_processes_are_frozen_and_killed(self, version_2):
        assert version_2["frozen"] == [True, True]
        assert version_2["killed"] == signal.SIGKILL

    def test_stats_count(self, version_2):
        assert version_2["pids"] == {"current": 1, "limit": 20}
        assert version_2["limit"] == 64 << 20

    def test_devices_are_denied(self, version_2):
        assert "Operation not permitted: '/dev/kmsg'" in version_2["device"]

    def test_update_keeps_what_it_does_not_name(self, version_2):
        assert version_2["update"] == ["max", str(64 << 20)]

    def test_nothing_is_left(self, version_2):
        assert not version_2["left"]

    def test_missing_controller_is_told(self, version_2):
        """This kernel has no cpuset; nothing is left of the attempt."""
        assert version_2["cpuset"] == (
            "MissingFeature: cgroup: /sys/fs/cgroup/cnlab-test/x has no cpuset.cpus; "
            "its controllers are: cpu io memory pids"
        )
        assert not version_2["left after failure"]

    def test_one_mount_shows_the_group(self, version_2):
        assert version_2["mounts"] == [["", "", "/sys/fs/cgroup/cnlab-test/demo"]]

    def test_delegated_group_is_used(self, version_2):
        """A user makes groups in the one that was given to him; limits need controllers that it passes on."""
        where, refused = version_2["delegated"]

        assert where == "['/sys/fs/cgroup/owned/cnlab-demo'] True"
        assert "MissingFeature: cgroup: /sys/fs/cgroup/owned/cnlab-demo has no memory.max" in refused


COMPARED = {
    "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes"),
    "cpu": ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "cpuset": ("cpuset.cpus", "cpuset.mems"),
    "pids": ("pids.max",),
    "devices": ("devices.list",),
}


def written(directories):
    """What stands in the files; the order of lines is the kernel's."""
    return {
        file: sorted(Path(directories[controller], file).read_text().splitlines())
        for controller, files in COMPARED.items()
        for file in files
    }


@pytest.mark.needs_root
@has_version_1
def test_groups_are_those_of_runc(tmp_path):
    """The same resources mean the same lines in the same files."""
    resources = {
        "memory": {"limit": 32 << 20, "swap": 64 << 20, "reservation": 16 << 20},
        "cpu": {"shares": 512, "quota": 20_000, "period": 50_000, "cpus": "0"},
        "pids": {"limit": 20},
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"},
        ],
    }
    with groups(resources) as made:
        ours = written({controller: made.directory_of(controller) for controller in COMPARED})
    theirs = _limits_by_runc(tmp_path, resources)

    theirs["devices.list"] = [line for line in theirs["devices.list"] if line != TUN]
    assert ours == theirs


TUN = "c 10:200 rwm"  # runc 1.1 let every container use it, and runc 1.2 does no longer


def _limits_by_runc(bundle, resources):
    (bundle / "rootfs/bin").mkdir(parents=True)
    shutil.copy(find_program("busybox"), bundle / "rootfs/bin/busybox")
    runc = [find_program("runc"), "--root", bundle / "state"]
    subprocess.run([*runc, "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"args": ["/bin/busybox", "true"], "terminal": False}
    config["linux"] |= {"resources": resources, "cgroupsPath": f"/{ABOVE}/demo"}
    (bundle / "config.json").write_text(json.dumps(config))
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "check": True}
    subprocess.run([*runc, "create", "demo"], cwd=bundle, **quiet)
    try:
        return written({tree.name: f"{tree.mount_point}/{ABOVE}/demo" for tree in find_trees()})
    finally:
        subprocess.run([*runc, "delete", "--force", "demo"], **quiet)
        for directory in Path("/sys/fs/cgroup").glob(f"*/{ABOVE}"):
            directory.rmdir()
