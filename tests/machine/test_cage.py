"""Who breaks out of a kernel that grades has broken out into a cage."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from student import ROOT, descendants

from cnlab.errors import MachineError
from cnlab.grading.workers.machine import GradingMachine
from cnlab.linux import capabilities, procfs, syscalls
from cnlab.linux.nsfs import namespaces_of
from cnlab.linux.processes import parse_status
from cnlab.machine import cage

pytestmark = pytest.mark.needs_uml


def runs_linux(pid: int) -> bool:
    """Whether a process is User-Mode Linux, or one of the processes of its guest, which come and go."""
    try:
        return "linux.uml" in procfs.read(pid, "cmdline")
    except ProcessLookupError:
        return False


def is_caged(pid: int) -> bool:
    """Whether a process can do nothing outside of its namespaces."""
    status, there, here = parse_status(procfs.read(pid, "status")), namespaces_of(pid), namespaces_of()
    is_open = all(cage.is_open_to_all(Path(place, "x")) for place in (sys.prefix, sys.base_prefix, ROOT))
    return (
        not capabilities.of(pid).effective
        and status["NoNewPrivs"] == "1"
        and (os.geteuid() != 0 or not is_open or status["Uid"].split()[0] == str(cage.NOBODY))
        and all(there[kind] != here[kind] for kind in ("net", "ipc", "uts", "pid"))
    )


def test_kernel_that_grades_is_nobodys_process_and_alone() -> None:
    """Its guest's root is a stranger, and a fault in the guest's kernel must not make the stranger us."""
    with GradingMachine() as machine:
        kernels = [process.pid for process in descendants(machine.pid) if runs_linux(process.pid)]

        assert kernels
        assert [pid for pid in kernels if runs_linux(pid) and not is_caged(pid)] == []


@pytest.mark.needs_userns
@pytest.mark.as_student
def test_host_that_refuses_a_part_is_named_and_grades_only_if_told_to() -> None:
    """A cage with a side missing is no cage; an instructor who knows the students may still want it."""
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    Path("/proc/sys/user/max_net_namespaces").write_text("0")

    with pytest.raises(MachineError, match=r"by machine-namespaces \(.*unshare.*No space left"):
        GradingMachine()
    with GradingMachine(accept=["machine-namespaces"]) as machine:
        assert machine.accepted == ("machine-namespaces",)
