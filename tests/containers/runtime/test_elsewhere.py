"""The runtime where it is not root of a version 1 host: for a student, and on the private kernel."""

import json
import os
import shutil
from pathlib import Path

import pytest
from box import Box
from private_kernel import in_private_kernel
from student import ROOT, Student

from cnlab.containers.runtime import store
from cnlab.errors import MissingFeature

IN_THE_PRIVATE_KERNEL = """
import json, os, pathlib, sys, tempfile
sys.path.insert(0, ".")
from box import Box
from cnlab.containers import runtime

box = Box(pathlib.Path(tempfile.mkdtemp()))
box.linux["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}, "devices": []}
facts = {"groups before": sorted(os.listdir("/sys/fs/cgroup"))}
box.create("sh", "-c", "id -u; cat /proc/self/cgroup; sleep 100 & wait")
facts["created"] = box.status
box.start()
group = pathlib.Path("/sys/fs/cgroup" + open(f"/proc/{box.pid}/cgroup").read().strip().removeprefix("0::"))
facts["limits"] = [(group / name).read_text() for name in ("memory.max", "pids.max")]
box.wait_for(lambda: len(runtime.ps(box.id, root=box.root)) > 1 and "0::" in box.said, "its sleep")
facts["seen inside"] = box.exec("cat", "/sys/fs/cgroup/memory.max")
stats = runtime.stats(box.id, root=box.root)
facts["pids"] = [len(runtime.ps(box.id, root=box.root)), stats["pids"]["current"]]
runtime.pause(box.id, root=box.root)
facts["paused"] = [box.status, (group / "cgroup.events").read_text()]
runtime.resume(box.id, root=box.root)
runtime.update(box.id, {"memory": {"limit": 32 << 20}}, root=box.root)
facts["updated"] = (group / "memory.max").read_text()
facts["said"] = box.said
box.kill("KILL", all=True)
facts["code"] = box.wait()
box.delete()
facts["gone"] = [box.is_gone(), group.exists()]
facts["groups after"] = sorted(os.listdir("/sys/fs/cgroup"))
box.process["args"] = ["id"]
box.write()
done = box.command("run", "by-command", timeout=60)
facts["command"] = [done.returncode, done.stdout, done.stderr]
box.close()
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts():
    """What one container in a private kernel has shown."""
    with Student() as student:
        for module in ("box.py", "leftovers.py"):
            shutil.copy(ROOT / "tests" / module, student.home)
        return json.loads(in_private_kernel(student, IN_THE_PRIVATE_KERNEL, timeout_s=110))


@pytest.mark.needs_uml
def test_container_runs_as_root_of_the_private_kernel(facts):
    """So notebooks may use it without any rights on the host."""
    assert ("created", "0\n0::/\n") == (facts["created"], facts["said"])


@pytest.mark.needs_uml
def test_limits_are_in_the_version_2_group(facts):
    """The container is born in its group: there is no moment without limits."""
    assert ["67108864\n", "50\n"] == facts["limits"]


@pytest.mark.needs_uml
def test_exec_is_in_the_same_group_and_sees_it_as_the_root_of_the_tree(facts):
    """The cgroup namespace is made inside the group."""
    assert [0, "67108864\n"] == facts["seen inside"]


@pytest.mark.needs_uml
def test_ps_and_stats_count_the_same_processes(facts):
    """The shell and its sleep."""
    assert [2, 2] == facts["pids"]


@pytest.mark.needs_uml
def test_pause_freezes_the_group(facts):
    """The freezer of version 2 tells when all have stopped."""
    assert ("paused", True) == (facts["paused"][0], "frozen 1" in facts["paused"][1])


@pytest.mark.needs_uml
def test_update_changes_the_limit(facts):
    """While the container runs."""
    assert "33554432\n" == facts["updated"]


@pytest.mark.needs_uml
def test_nothing_is_left_in_the_private_kernel(facts):
    """Neither group nor state."""
    assert (-9, [True, False], facts["groups before"]) == (
        facts["code"],
        facts["gone"],
        facts["groups after"],
    )


@pytest.mark.needs_uml
def test_command_runs_in_the_private_kernel(facts):
    """Docker Engine there starts containers with it."""
    assert [0, "uid=0 gid=0\n", ""] == facts["command"]


@pytest.mark.needs_userns
@pytest.mark.as_student
def test_rootless_root_inside_is_the_user_outside():
    """Root of a user namespace that maps one id: what it makes belongs to the student."""
    box = Box(Path.cwd(), rootless=True)
    try:
        said = box.sh("id -u; cat /proc/self/uid_map; touch /made; hostname")

        assert ["0", "0", str(os.getuid()), "1", "box"] == said.split()
        assert os.getuid() == (box.rootfs / "made").stat().st_uid
    finally:
        box.close()


@pytest.mark.needs_userns
@pytest.mark.as_student
def test_rootless_container_goes_through_the_whole_lifecycle():
    """Create, start, exec, kill and delete need no rights."""
    box = Box(Path.cwd(), rootless=True)
    try:
        box.create("sleep", "100")
        created = box.status
        box.start()
        code, said = box.exec("id", "-u")
        box.kill()
        ended = box.wait()
        box.delete()

        assert ("created", 0, "0\n", -9, True) == (created, code, said, ended, box.is_gone())
    finally:
        box.close()


@pytest.mark.needs_userns
@pytest.mark.as_student
def test_rootless_limits_without_delegation_are_refused():
    """A limit that would limit nothing is worse than none."""
    box = Box(Path.cwd(), rootless=True, resources={"memory": {"limit": 1 << 25}})
    try:
        with pytest.raises(MissingFeature):
            box.create()

        assert box.is_gone()
    finally:
        box.close()


@pytest.mark.needs_userns
@pytest.mark.as_student
def test_rootless_with_other_ids_says_what_it_would_take():
    """Without root or newuidmap(1) the kernel maps no foreign ids."""
    box = Box(Path.cwd(), rootless=True)
    box.linux["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 10}]
    try:
        with pytest.raises(OSError, match="newuidmap"):
            box.create()

        assert box.is_gone()
    finally:
        box.close()


@pytest.mark.needs_userns
@pytest.mark.as_student
def test_rootless_command_runs_a_container():
    """The same command line, in the student's hands."""
    box = Box(Path.cwd(), rootless=True, args=["id"])
    try:
        box.write()
        done = box.command("run", box.id)

        # Then come the groups that the user has, which are nobody's there or root's.
        assert (0, ["uid=0", "gid=0"], "") == (done.returncode, done.stdout.split()[:2], done.stderr)
    finally:
        box.close()


@pytest.mark.needs_userns
@pytest.mark.as_student
def test_rootless_specification_runs():
    """``spec --rootless`` maps the caller's own ids, and asks for nothing that takes root."""
    box = Box(Path.cwd())
    try:
        done = box.command("spec", "--rootless")
        box.config = json.loads((box.bundle / "config.json").read_text())
        box.process.update(terminal=False, args=["cat", "/proc/self/uid_map"])

        assert (0, "") == (done.returncode, done.stderr)
        assert ["0", str(os.getuid()), "1"] == box.run().split()
    finally:
        box.close()


def test_default_root_of_a_student_is_his_runtime_directory(monkeypatch):
    """Root's containers are none of his business."""
    monkeypatch.setattr(store.os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")

    assert "/run/user/1000/cnlab" == store.default_root()
