"""What this host has for a sandbox, and what happens where it lacks a part: nothing is graded by accident."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path

import leftovers
import pytest

from cnlab.errors import InvalidValue, MissingFeature
from cnlab.grading.limits import Limits
from cnlab.grading.sandbox import Sandbox, filesystem, parts, require_parts
from cnlab.grading.sandbox import groups as control_groups
from cnlab.grading.sandbox.group_removal import PREFIX, remove_stale
from cnlab.linux import syscalls
from cnlab.linux.namespaces import spawn
from cnlab.linux.nsfs import namespaces_of

pytestmark = [pytest.mark.needs_userns, pytest.mark.needs_landlock]

GROUPS = ("cgroup-memory", "cgroup-pids", "cgroup-cpu")


def on_a_poorer_host(impoverish, function):
    """Call `function` where the kernel refuses what `impoverish` takes away; return what it says."""

    def program():
        try:
            impoverish()
            print(function(), flush=True)
        except (MissingFeature, InvalidValue) as refusal:
            print(type(refusal).__name__, refusal, *getattr(refusal, "__notes__", ()), flush=True)
        except BaseException:
            traceback.print_exc()

    with spawn(program, new=("user", "mnt", "pid"), mount_proc=True, capture=True) as child:
        return child.stdout.read() + child.stderr.read()


def forbid(kind):
    """Let the kernel make no more namespaces of a kind here: the sysctl is one of the user namespace."""
    return lambda: Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")


def hide_control_groups():
    syscalls.mount("tmpfs", "/sys/fs/cgroup", "tmpfs")


def without_groups():
    return require_parts([*GROUPS])


def test_checkout_in_a_place_of_the_sandboxes_own_is_named():
    """Who clones into /tmp was told that the machine is to blame: ``File exists: '/mnt/tmp'``."""
    environment = [Path("/usr"), Path("/tmp/course/.venv/lib")]

    with pytest.raises(InvalidValue, match=r"/tmp/course/\.venv/lib lies in /tmp, .* move it"):
        filesystem.require_place(environment)


def test_missing_part_is_named_with_the_kernels_reason():
    """A setting of the host is found by trying, whatever its version says."""
    said = on_a_poorer_host(forbid("net"), without_groups)

    assert said.startswith("MissingFeature sandbox: this host refuses network-namespace (netns: ")
    assert "No space left on device" in said
    assert "--accept network-namespace" in said


def test_missing_part_can_be_accepted_by_its_name():
    """The instructor has the last word, and says it for each part."""
    said = on_a_poorer_host(forbid("ipc"), lambda: require_parts([*GROUPS, "ipc-namespace", "uts-namespace"]))

    assert "ipc-namespace" in said
    assert "uts-namespace" not in said


def test_accepted_part_is_used_where_the_host_has_it():
    """One command grades on many machines; each is as strict as it can be."""

    def run():
        with Sandbox(accept=[*GROUPS, "network-namespace"]) as box:
            student = box.start(signal.pause)
            return namespaces_of(student.pid)["net"] != namespaces_of()["net"]

    assert on_a_poorer_host(lambda: None, run) == "True\n"


def test_sandbox_runs_without_an_accepted_part():
    """What is left of it confines all the same."""

    def run():
        with Sandbox(accept=[*GROUPS, "network-namespace"]) as box:
            return box.start(lambda: None).wait(20)

    assert on_a_poorer_host(forbid("net"), run) == "True\n"


def test_part_that_is_missing_unnoticed_stops_the_start():
    """Who forgets to ask gets no weaker sandbox."""

    def run():
        with Sandbox(accept=GROUPS) as box:
            return box.start(lambda: None)

    assert "this host refuses network-namespace" in on_a_poorer_host(forbid("net"), run)


def test_nothing_replaces_user_namespaces():
    """Without them the student's process would have rights over the grader's."""
    said = on_a_poorer_host(forbid("user"), without_groups)

    assert "there is no sandbox without user-namespace" in said
    with pytest.raises(InvalidValue, match="no part that grading can do without"):
        require_parts(["user-namespace"])


def test_control_groups_that_are_not_there_are_missing():
    """A tmpfs where they should be takes every write and limits nothing."""
    said = on_a_poorer_host(hide_control_groups, require_parts)

    assert all(name in said for name in GROUPS)
    assert "user-namespace" not in said


@pytest.mark.as_student
def test_ordinary_user_can_grade_but_for_control_groups():
    """Unless a service manager has delegated some."""
    missing = {name for name, reason in parts().items() if reason}

    assert missing <= {*GROUPS}


@pytest.mark.needs_root
def test_root_has_all_parts():
    """Otherwise the tests of the sandbox would prove less than they say."""
    assert {name: reason for name, reason in parts().items() if reason} == {}


@pytest.mark.needs_root
def test_groups_of_a_killed_grader_are_removed_by_the_next():
    """Should even the sandbox's first process be killed, nobody is left to remove them."""
    maker = os.fork()
    if maker == 0:
        control_groups.make(f"stale-{os.getpid()}", Limits())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(maker, 0)
    kept = control_groups.make(f"kept-{os.getpid()}", Limits())
    try:
        removed = remove_stale()

        assert f"{PREFIX}stale-{maker}" in removed
        assert f"{PREFIX}kept-{os.getpid()}" not in removed
        assert all(directory.is_dir() for directory in kept.directories.values())
    finally:
        kept.remove()
        kept.close()
    assert not leftovers.control_groups(f"{PREFIX}*-{maker}")
