import json
import os
import subprocess

import pytest

from cnlab.errors import InvalidValue
from cnlab.linux import syscalls
from cnlab.linux.namespaces import spawn
from cnlab.linux.nsfs import KINDS, Namespace, flags_for, namespaces_of, parse_namespace

from .conftest import OWN


def test_namespace_is_written_as_the_kernel_writes_it():
    """`readlink /proc/self/ns/uts` and our text can be compared by eye."""
    namespace = parse_namespace("uts:[4026531838]")

    assert namespace == Namespace("uts", 4026531838)
    assert str(namespace) == "uts:[4026531838]"


@pytest.mark.parametrize("link", ["", "uts", "uts:[]", "/proc/self/ns/uts", "uts:[12]x"])
def test_other_text_names_no_namespace(link):
    """Half a name must not become a namespace with the inode 0."""
    with pytest.raises(InvalidValue, match="does not name a namespace"):
        parse_namespace(link)


def test_flags_of_all_kinds_are_those_of_the_headers():
    """CLONE_NEWTIME is the newest and took a bit that clone(2) uses for the exit signal."""
    assert flags_for(*KINDS) == 0x7E020080
    assert flags_for("mnt", "pid") == syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID


def test_unknown_kind_is_told_with_the_eight_that_exist():
    """Most often it is a typing error, or the word "network"."""
    with pytest.raises(InvalidValue) as caught:
        flags_for("uts", "network")

    assert str(caught.value) == (
        "unknown namespace 'network'; the kinds are cgroup, ipc, mnt, net, pid, time, user, uts"
    )


def test_own_namespaces_are_those_behind_proc_self():
    """The link is the only name that a namespace has."""
    assert str(namespaces_of()["uts"]) == os.readlink("/proc/self/ns/uts")


@pytest.mark.needs_mntns
def test_lsns_sees_the_same_namespaces_of_a_child():
    """util-linux decides."""
    with spawn(["sleep", "60"], new=(*OWN, "uts", "ipc", "pid")) as child:
        listed = subprocess.run(
            ["lsns", "--json", "--output", "NS,TYPE", "--task", str(child.pid)],
            capture_output=True,
            check=True,
        )
        ours = child.namespaces
    theirs = {row["type"]: int(row["ns"]) for row in json.loads(listed.stdout)["namespaces"]}

    assert {kind: namespace.inode for kind, namespace in ours.items()} == theirs


def test_process_that_is_gone_has_no_namespaces(gone):
    """An empty answer would look like a kernel without namespaces."""
    with pytest.raises(ProcessLookupError, match=f"no process {gone}"):
        namespaces_of(gone)


@pytest.mark.needs_mntns
def test_zombie_has_let_go_of_its_namespaces(inside):
    """What is left of it is a number and an exit code, and to whom they belong."""

    def look_at_a_zombie() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        print(*namespaces_of(pid))

    assert set(inside(look_at_a_zombie, new=()).split()) <= {"pid", "user"}
