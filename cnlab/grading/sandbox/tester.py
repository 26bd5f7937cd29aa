"""How a tester gets to where the student's code is, without coming within its reach.

See: setns(2).
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnlab.grading.sandbox import confinement, filesystem, rooted_files
from cnlab.linux import cgroup_tree, syscalls
from cnlab.linux.capability_names import mask_of
from cnlab.linux.nsfs import flags_for

_PID_NAMESPACE = "/proc/self/ns/pid"
_KEPT = ("CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH")  # it may read what the student has written


@contextlib.contextmanager
def born_inside(reference: Mapping[str, Any]) -> Iterator[None]:
    """Let processes that the caller forks within the block be in the pid namespace of a root sandbox.

    For the plain flavour it does nothing: a tester stays where the student cannot see it.
    """
    if reference["flavour"] == "plain":
        yield
        return
    before = os.readlink(_PID_NAMESPACE)
    own = os.open(_PID_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    init = syscalls.pidfd_open(int(reference["init"]))
    try:
        syscalls.setns(init, syscalls.CLONE_NEWPID)
        try:
            yield
        finally:
            if os.readlink(_PID_NAMESPACE) == before:  # a child that leaves the block stays where it was born
                syscalls.setns(own, syscalls.CLONE_NEWPID)
    finally:
        os.close(own)
        os.close(init)


def join(reference: Mapping[str, Any]) -> None:
    """Enter, for good, what a tester shares with the student: its files, its network, its host name, its ipc.

    The caller has one thread, and stays outside the student's user namespace: the student has no rights over
    it. Files it opens may be hostile; no directory that the student can write may be on `sys.path`.

    In a plain sandbox it keeps only the capabilities to read what the student wrote. In a root sandbox it
    becomes root of the user namespace around the student's, with a view of the files from before any
    student's code ran, and may do there what the student may.

    Raises:
        FileNotFoundError: the sandbox has ended.
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if reference["flavour"] == "root":
        _join_root(reference)
    else:
        _join_plain(reference)


def _join_plain(reference: Mapping[str, Any]) -> None:
    if _enter(_open(reference["first"], ("user", "mnt", "net", "ipc", "uts"))):
        syscalls.set_ids(0, 0)
    keep = mask_of(*_KEPT) & syscalls.capget()[1]
    syscalls.capset(keep, keep, 0)
    syscalls.set_no_new_privs()
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # a change of ids has set it again
    os.chdir(filesystem.HOME)
    confinement.set_environment_of_tester("student")


def _join_root(reference: Mapping[str, Any]) -> None:
    if group := reference["tester_group"]:
        cgroup_tree.write(Path(group) / "cgroup.procs", "0")
    shared = _open(reference["init"], ("net", "ipc", "uts", "cgroup"))
    _enter([*_open(reference["first"], ("user", "mnt")), *shared])
    syscalls.set_ids(0, 0, [])
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.chdir(rooted_files.HOME)
    confinement.set_environment_of_tester("root")


def _open(pid: int, kinds: Sequence[str]) -> list[tuple[int, str]]:
    """Open those namespaces of process `pid` that are not ours.

    The caller may be in another pid namespace than the one where `pid` is the number; its ``/proc`` is not.
    """
    found = []
    for kind in kinds:
        path = f"/proc/{int(pid)}/ns/{kind}"
        if os.readlink(path) != os.readlink(f"/proc/self/ns/{kind}"):
            found.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind))
    return found


def _enter(namespaces: Sequence[tuple[int, str]]) -> bool:
    """Enter namespaces, the user namespace first; say whether that is another one now."""
    for fd, kind in namespaces:
        syscalls.setns(fd, flags_for(kind))
        os.close(fd)
    return any(kind == "user" for _, kind in namespaces)
