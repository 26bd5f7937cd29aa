"""Runtime specification, config-linux.md: what it says of cgroup version 2, as a private kernel has it.

Each docstring quotes the sentence that the test holds the runtime to.
"""

import json
import shutil

import pytest
from private_kernel import in_private_kernel
from student import ROOT, Student

GUEST = """
import json, os, pathlib, sys, tempfile
sys.path.insert(0, ".")
from box import Box
from cnlab.containers import runtime

def group():
    path = open(f"/proc/{box.pid}/cgroup").read().strip().removeprefix("0::")
    return pathlib.Path("/sys/fs/cgroup" + path)

def attempt(resources, *program):
    global box
    box = Box(pathlib.Path(tempfile.mkdtemp()))
    box.linux["resources"] = resources
    box.linux["devices"] = [{"path": "/dev/messages", "type": "c", "major": 1, "minor": 11}]
    box.create(*program or ("sleep", "100"))
    box.start()

def complaint(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""

facts = {}
attempt({"unified": {"memory.high": "50331648", "pids.max": "33"}})
files = ("cgroup.controllers", "memory.high", "pids.max")
facts["unified"] = {name: (group() / name).read_text().strip() for name in files}
facts["update"] = complaint(lambda: runtime.update(box.id, {"unified": {"pids.max": "44"}}, root=box.root))
facts["updated"] = (group() / "pids.max").read_text()
low = {"memory": {"limit": 4096, "checkBeforeUpdate": True}}
facts["too low"] = complaint(lambda: runtime.update(box.id, low, root=box.root))
enough = {"memory": {"limit": 64 << 20, "checkBeforeUpdate": True}}
facts["high enough"] = complaint(lambda: runtime.update(box.id, enough, root=box.root))
facts["memory.max"] = (group() / "memory.max").read_text()
facts["status"] = box.status
box.close()

for unified in ({"hugetlb.2MB.max": "0"}, {"cpuset.cpus": "0"}, {"nothing.max": "1"}, {"../../x": "1"}):
    name = next(iter(unified))
    facts[name] = [complaint(lambda: attempt({"unified": unified})), box.is_gone()]
    box.close()

own = {"type": "c", "major": 1, "minor": 11, "access": "w"}
for last in (True, False):
    rules = [{"allow": False}, own | {"allow": not last}, own | {"allow": last}]
    attempt({"devices": rules}, "sh", "-c", ": > /dev/messages && echo opened")
    box.wait()
    facts[f"devices {last}"] = box.said
    box.close()

attempt({"cpu": {"quota": 50000, "burst": 20000}})
facts["burst"] = (group() / "cpu.max.burst").read_text()
box.close()
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts():
    """What containers with resources of version 2 have shown in a private kernel."""
    with Student() as student:
        for module in ("box.py", "leftovers.py"):
            shutil.copy(ROOT / "tests" / module, student.home)
        return json.loads(in_private_kernel(student, GUEST, timeout_s=110))


pytestmark = pytest.mark.needs_uml


def test_unified_controllers_must_be_enabled(facts):
    """“The OCI runtime MUST ensure that the needed cgroup controllers are enabled for the cgroup.”"""
    assert {"memory", "pids", "io"} <= {*facts["unified"]["cgroup.controllers"].split()}


def test_unified_must_be_written_to_the_relevant_file(facts):
    """“Configuration unknown to the runtime MUST still be written to the relevant file.”"""
    assert ("50331648", "33") == (facts["unified"]["memory.high"], facts["unified"]["pids.max"])


def test_unified_can_be_modified(facts):
    """“… allows cgroup v2 parameters to be set and modified for the container.”"""
    assert ("", "44\n") == (facts["update"], facts["updated"])


@pytest.mark.parametrize("file", ["hugetlb.2MB.max", "cpuset.cpus", "nothing.max"])
def test_unified_controller_that_is_not_present_must_be_refused(facts, file):
    """“The runtime MUST generate an error when the configuration refers to a cgroup controller that is not
    present or that cannot be enabled.”"""
    said, is_gone = facts[file]

    assert f"has no {file}; its controllers are: " in said
    assert is_gone


def test_unified_file_of_another_directory_is_refused(facts):
    """“Each key in the map refers to a file in the cgroup unified hierarchy”, and none leads out of it."""
    said, is_gone = facts["../../x"]

    assert "unified has '../../x'" in said
    assert is_gone


def test_memory_check_before_update_must_reject_a_limit_below_the_usage(facts):
    """“If enabled (true), runtime MAY check if a new memory limit is lower than the current usage, and MUST
    reject the new limit”, where the kernel would kill."""
    assert "InvalidValue: linux.resources.memory.limit is 4096; the container uses" in facts["too low"]


def test_memory_check_before_update_lets_a_limit_above_the_usage_pass(facts):
    """And the container lives on."""
    assert ("", "67108864\n", "running") == (facts["high enough"], facts["memory.max"], facts["status"])


def test_allowed_device_list_must_be_applied_in_order(facts):
    """“The runtime MUST apply entries in the listed order”: the last that matches counts."""
    assert "opened\n" == facts["devices True"]
    assert "can't create /dev/messages: Operation not permitted" in facts["devices False"]


def test_cpu_burst_is_written(facts):
    """“burst specifies the maximum amount of accumulated time … for burst during one period.”"""
    assert "20000\n" == facts["burst"]
