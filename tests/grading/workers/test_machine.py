"""A student is root inside a private kernel, the checks stand beside, the next submission finds nothing."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from leftovers import own_files

from cnlab.clock import wait_until
from cnlab.grading.attempt.execution import Job, Result
from cnlab.grading.workers import machine
from cnlab.grading.workers.machine import GradingMachine
from cnlab.linux.processes import processes

pytestmark = [pytest.mark.needs_uml, pytest.mark.timeout(240)]

SETUP = "from cnlab.grading import notebook\nfrom cnlab.grading.calls import calling"


@pytest.fixture(scope="module")
def machine_for_all() -> Iterator[GradingMachine]:
    """One machine for the jobs of all tests, as in a course."""
    with GradingMachine() as machine:
        yield machine


def job(student: str, check: str) -> Job:
    """A submission with one cell of the student's and one check."""
    sources = [("setup", SETUP), ("student", student), ("test", check)]
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(source)) for _, source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    return Job("somebody", nbformat.writes(notebook), tuple((role, role) for role, _ in sources))


def message(result: Result) -> str:
    """What the check of `job` said; nothing if it passed."""
    assert result.error == ""
    output = [text for cell in json.loads(result.notebook)["cells"] for text in cell["outputs"]]
    return result.cells[-1].message and f"{result.cells[-1].message}\n{output}"


def test_student_is_root_who_is_nobody_in_the_machine(machine_for_all: GradingMachine) -> None:
    """All capabilities for the namespaces that a lab is about, none for the machine that grades."""
    result = machine_for_all.run(
        job(
            """
            import os
            from cnlab.linux import syscalls

            def try_all():
                os.mkdir("/tmp/here")
                syscalls.mount("tmpfs", "/tmp/here", "tmpfs")
                syscalls.sethostname("mine")
                refused = []
                for attempt in (
                    lambda: syscalls.mount("none", "/tmp/here", "hostfs", data="/"),
                    lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(98, 0)),
                    lambda: open("/proc/sys/kernel/core_pattern", "w"),
                    lambda: open("/etc/changed", "w"),
                ):
                    try:
                        attempt()
                        refused.append("allowed")
                    except OSError as error:
                        refused.append(error.strerror)
                return os.getuid(), refused
            """,
            """
            with calling(try_all) as call:
                uid, refused = call.result(tuple)
            assert uid == 0, uid
            assert "allowed" not in refused, refused
            assert open("/proc/self/uid_map").read().split()[1] != "0"
            """,
        )
    )

    assert message(result) == ""


def test_student_cannot_look_into_the_process_of_the_checks(machine_for_all: GradingMachine) -> None:
    """It holds the hidden tests, and has the same number in both views."""
    result = machine_for_all.run(
        job(
            """
            import os

            def peep(pid):
                seen = []
                looks = {"environ": os.open, "mem": os.open, "maps": os.open}
                looks |= {"fd": os.listdir, "root/": os.listdir}
                for name, look in looks.items():
                    try:
                        look(f"/proc/{pid}/{name}", *[os.O_RDONLY] * (look is os.open))
                        seen.append(name)
                    except OSError:
                        pass
                return seen
            """,
            """
            import os
            with calling(peep, os.getpid()) as call:
                assert call.result() == [], call.result()
            with notebook.bystander(["sleep", "6001"]) as other, calling(peep, other.pid) as call:
                assert "environ" in call.result(list), call.result()
            """,
        )
    )

    assert message(result) == ""


def test_checks_see_the_kernel_and_not_what_the_student_has_mounted_over_it(
    machine_for_all: GradingMachine,
) -> None:
    """A student who is root can put any file system in the place of /proc."""
    result = machine_for_all.run(
        job(
            """
            import os
            from cnlab.linux import syscalls
            for place in ("/proc", "/sys/fs/cgroup", "/usr"):
                syscalls.mount("tmpfs", place, "tmpfs")

            def listed():
                return os.listdir("/proc") + os.listdir("/usr")
            """,
            """
            import os
            from cnlab.linux.cgroups import Cgroup
            assert listed() == []
            assert str(os.getpid()) in os.listdir("/proc")
            assert os.path.exists("/usr/bin/env")
            with Cgroup("check") as group:
                assert (group.path / "memory.max").exists()
            """,
        )
    )

    assert message(result) == ""


def test_private_directory_is_out_of_the_students_reach(machine_for_all: GradingMachine) -> None:
    """What a check compares with must not be a student's to change, whatever way in there may be."""
    result = machine_for_all.run(
        job(
            """
            import os

            def find(name):
                here = [f"{at}/{name}" for at, _, files in os.walk("/usr/src") if name in files]
                for pid in filter(str.isdigit, os.listdir("/proc")):
                    for at, _, files in os.walk(f"/proc/{pid}/root/usr/src"):
                        here += [f"{at}/{name}"] if name in files else []
                return here
            """,
            """
            from pathlib import Path
            with notebook.private_directory() as place, notebook.bystander(["sleep", "6002"]):
                Path(place, "expected").write_text("42")
                with calling(find, "expected") as call:
                    assert call.result() == [], call.result()
            """,
        )
    )

    assert message(result) == ""


def test_call_in_a_process_of_somebody_else_is_refused(machine_for_all: GradingMachine) -> None:
    """The student's process tells the pid; the kernel tells whose child that is."""
    result = machine_for_all.run(
        job(
            """
            from cnlab.grading import callee
            callee.serve_call = lambda *arguments, **options: 1

            def start():
                pass
            """,
            """
            with calling(start) as call:
                call.result()
            """,
        )
    )

    assert "expected a call in a child of process" in message(result)


def test_shared_mount_is_one_of_the_notebook(machine_for_all: GradingMachine) -> None:
    """What a function mounts below it in a copy of the mounts shows in the notebook, if it is not private."""
    result = machine_for_all.run(
        job(
            """
            from cnlab.linux import syscalls

            def mount_in_a_copy(path):
                syscalls.unshare(syscalls.CLONE_NEWNS)
                syscalls.mount("tmpfs", path, "tmpfs")
            """,
            """
            import os, tempfile
            from cnlab.linux import mounts
            with tempfile.TemporaryDirectory() as top, notebook.shared_mount(top):
                os.mkdir(f"{top}/a")
                with calling(mount_in_a_copy, f"{top}/a") as call:
                    call.result()
                    seen = [str(mount.mount_point) for mount in mounts.read_mountinfo(notebook.process())]
                    own = [str(mount.mount_point) for mount in mounts.read_mountinfo()]
            assert f"{top}/a" in seen, seen
            assert top not in own, own
            """,
        )
    )

    assert message(result) == ""


def test_nothing_of_a_submission_is_left_for_the_next(machine_for_all: GradingMachine) -> None:
    """Daemons, mounts, groups, links and files go with the sandbox; then the machine serves on."""
    result = machine_for_all.run(
        job(
            """
            import os, signal, subprocess
            from cnlab.linux import syscalls
            from cnlab.linux.rtnetlink import Rtnetlink
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            subprocess.Popen(["setsid", "sh", "-c", "trap '' TERM HUP INT; while :; do sleep 6003; done"])
            os.mkdir("/sys/fs/cgroup/mine")
            open("/tmp/file", "w").write("x")
            open("/run/file", "w").write("x")
            syscalls.mount("tmpfs", "/mnt", "tmpfs")
            with Rtnetlink() as ip:
                ip.add_bridge("mine")
            """,
            "assert True",
        )
    )

    assert message(result) == ""
    assert not machine_for_all.is_soiled, result.notes
    again = job(
        "import os\nfound = os.listdir('/tmp') + os.listdir('/run')", "assert 'file' not in found, found"
    )
    assert message(machine_for_all.run(again)) == ""


def test_job_whose_machine_dies_is_run_in_a_new_one() -> None:
    """A machine is a process like any other: it can be killed, and that is no fault of the submission."""
    good = job("def one():\n    return 1", "assert one() == 1")
    try:
        assert message(machine.run_in_machine(good)) == ""
        kept = machine._machine
        assert kept is not None
        os.kill(kept.pid, signal.SIGKILL)
        result = machine.run_in_machine(good)
    finally:
        machine.close()

    assert message(result) == ""
    assert result.attempts == 2
    assert "tried again in a new machine" in result.notes[0]


def test_machine_leaves_nothing_on_the_host() -> None:
    """Its kernel, its helper processes and its directories end with it."""
    before = own_files()
    with GradingMachine() as short:
        launcher = short.pid

    wait_until(lambda: not Path(f"/proc/{launcher}").exists(), timeout_s=60)
    assert [path for path in own_files() - before if path.name.startswith("cnlab-grading")] == []
    assert launcher not in [process.ppid for process in processes()]
