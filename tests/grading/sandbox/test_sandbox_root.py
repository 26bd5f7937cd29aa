"""The sandbox of a student who is root, inside the private kernel: everything allowed, nothing given away."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from private_kernel import in_private_kernel
from student import Student

from cnlab.grading.sandbox import rooted_files

pytestmark = [pytest.mark.needs_uml, pytest.mark.needs_landlock, pytest.mark.timeout(360)]

SCRIPT = Path(__file__).with_name("sandboxed_root.py")


@pytest.fixture(scope="module")
def facts():
    """What came out of one run in one machine."""
    with Student() as student:
        shutil.copy(SCRIPT, student.home)
        code = "import subprocess, sys; print(subprocess.getoutput(f'{sys.executable} sandboxed_root.py'))"
        said = in_private_kernel(student, code, timeout_s=300)
    assert said.startswith("{"), said
    return json.loads(said)


def submitted(files):
    """What a submission brought to its home, where the Python environment may lie too."""
    home = Path(rooted_files.HOME)
    installed = [Path(sys.prefix), Path(sys.base_prefix), Path(rooted_files.__file__)]
    ways = {path.relative_to(home).parts[0] for path in installed if path.is_relative_to(home)}
    return sorted(set(files) - ways)


def test_private_kernel_has_all_parts(facts):
    """Landlock apart, which would forbid a student who is root to mount."""
    assert facts["missing"] == []


def test_student_may_do_what_root_may(facts):
    """Mount, wire, name, number: labs ask for all of it."""
    assert facts["student"]["tried"] == dict.fromkeys(facts["student"]["tried"], "")


def test_student_rules_its_control_groups(facts):
    """The delegated group is the root of what it sees, with a group for the notebook's process below."""
    assert facts["student"]["cgroup"] == "0::/demo\n"


def test_limits_that_the_student_sets_are_no_event(facts):
    """A lab asks for a process that runs out of its group's memory; the report is to tell of misuse."""
    assert facts["student"]["killed"] == -9
    assert facts["events"] == []


def test_student_gets_no_right_over_the_machine(facts):
    """Its devices, its programs, its clock, and the limits set for it."""
    assert [what for what, reason in facts["student"]["refused"].items() if not reason] == []


def test_student_starts_as_the_first_process_after_init(facts):
    """At home, with its files."""
    assert (facts["student"]["pid"], submitted(facts["student"]["files"])) == (2, ["a"])


def test_tester_has_the_ids_that_the_student_has(facts):
    """What belongs to 33 for one belongs to 33 for the other; only the last id is the tester's alone."""
    tester = facts["tester"]

    assert tester["uid_map"][0::2] == ["0", "1000000"]
    assert (tester["student_is_root"], tester["owner"]) == (True, 33)


def test_tester_sees_what_the_student_made(facts):
    """In the same network, host name, control groups and files."""
    tester = facts["tester"]

    assert tester["hostname"] == "renamed"
    assert {"lo", "left", "right", "switch"} <= {*tester["links"]}
    assert tester["groups"] == ["notebook"]
    assert submitted(tester["files"]) == ["a"]


def test_tester_does_not_see_what_the_student_mounted(facts):
    """A fake over /proc or the control groups would tell it lies."""
    assert facts["tester"]["seen_of_student"] == ["fake", "fake"]
    assert facts["tester"]["mounts"] == []


def test_tester_is_no_root_of_the_machine(facts):
    """A test that a link leads astray changes nothing outside the sandbox."""
    assert "Read-only" in facts["tester"]["machine"] or "denied" in facts["tester"]["machine"]


def test_student_cannot_look_into_the_tester(facts):
    """It may see that there is one: not its memory, its environment, its files."""
    spied = facts["spied"]

    assert spied.pop("traced") == -1
    assert set(spied.values()) == {"PermissionError"}


def test_ordinary_user_has_limits_in_a_group_delegated_to_it(facts):
    """As ``systemd-run --user --scope -p Delegate=yes`` delegates one."""
    assert facts["delegated"] == {"processes": 20, "events": ["no more than 20 processes and threads"]}


def test_nothing_is_left_in_the_machine(facts):
    """The next submission may have it."""
    assert facts["left"] == []
    assert facts["usage"]["memory_peak_bytes"] > 0
