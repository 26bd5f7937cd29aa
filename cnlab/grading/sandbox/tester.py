"""How a tester gets to where the student's code is, without coming within its reach.

    zygote ── the tester, process 1 of a pid namespace, in a user namespace beside the student's
               └── programs that a check starts, and that the student may have written

Such a program has the tester's ids and none of its capabilities. It has numbers for nobody but the tester and
what that has started, may trace nobody, and cannot end the tester; with whose end it ends itself.

In a root sandbox it has the tester's rights over the student's namespaces, which ip(8) and nsenter(1) need.
None of them reach the tester's memory, descriptors and mounts; see `cnlab.grading.notebook` for what they do.

See: setns(2), pid_namespaces(7), user_namespaces(7).
"""

import contextlib
import os
import resource
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnlab.grading.limits import Limits
from cnlab.grading.notebook import PRIVATE
from cnlab.grading.sandbox import confinement, filesystem, messages, ownership, rooted_files, system_calls
from cnlab.linux import cgroup_tree, syscalls
from cnlab.linux.nsfs import flags_for

_PID_NAMESPACE = "/proc/self/ns/pid"
_STARTS = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.system", "os.exec", "os.posix_spawn", "os.spawn"}
)
"""What Python calls it, in its table of audit events, that a process is about to start another."""


def fork(reference: Mapping[str, Any]) -> tuple[int, int]:
    """Fork a process that is to `join`; return its pid and pidfd, and (0, -1) in the child.

    The caller has one thread. It need not wait for the child where it ignores ``SIGCHLD``.

    Raises:
        FileNotFoundError: the sandbox has ended.
        OSError: the kernel refused.
    """
    if reference["flavour"] == "root":
        with born_inside(reference):
            return syscalls.clone3()
    around = _open(reference["first"], ("user",))
    return _fork_from(around) if around else syscalls.clone3(syscalls.CLONE_NEWPID)


def _fork_from(around: Sequence[tuple[int, str]]) -> tuple[int, int]:
    """Fork from within a user namespace that lets us make a pid namespace.

    There is no way back out of it. So a child goes there in our place, and has the new process be ours.
    """
    ours, theirs = messages.pair()
    go_between, pidfd = syscalls.clone3()
    if go_between == 0:
        ours.close()
        _be_forked_from(around, theirs)
        theirs.close()
        return 0, -1
    theirs.close()
    for fd, _ in around:
        os.close(fd)
    with ours:
        answer = messages.receive(ours)
    with contextlib.suppress(ChildProcessError):  # the kernel has reaped it
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    if answer is None:
        raise ChildProcessError("the process that was to fork a tester ended before it did")
    messages.raise_failure(answer[0])
    [pidfd] = answer[1]
    return messages.pid_of(pidfd), pidfd


def _be_forked_from(around: Sequence[tuple[int, str]], zygote: socket.socket) -> None:
    """In the child that goes there: return in the process that it forks, and only there."""
    try:
        _enter(around)
        pid, pidfd = syscalls.clone3(syscalls.CLONE_NEWPID | syscalls.CLONE_PARENT)
        if pid == 0:
            return
        messages.send(zygote, {"forked": pid}, [pidfd])
    except BaseException as error:
        messages.send(zygote, messages.failure(error))
    os._exit(0)


@contextlib.contextmanager
def born_inside(reference: Mapping[str, Any]) -> Iterator[None]:
    """Let processes that the caller forks within the block be in the pid namespace of a root sandbox."""
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

    The caller has one thread, is a process that `fork` has made, and stays outside the student's user
    namespace: the student has no rights over it. Files it opens may be hostile; no directory that the student
    can write may be on `sys.path`.

    In a plain sandbox it has the student's ids and limits, and none of its own rights are left but to read
    what the student wrote. In a root sandbox it becomes root of the user namespace around the student's, with
    a view of the files from before any student's code ran, and may do there what the student may.

    Raises:
        FileNotFoundError: the sandbox has ended.
    """
    if reference["flavour"] == "root":
        _join_root(reference)
    else:
        _join_plain(reference)


def _join_plain(reference: Mapping[str, Any]) -> None:
    missing = reference["missing"]
    _enter_groups_later(reference)
    confinement.be_first_to_go()
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # not there where we go
    _enter(_open(reference["first"], ("user", "mnt", "net", "ipc", "uts")))
    os.chdir(filesystem.HOME)
    _enter_own_user_namespace(proc)
    os.close(proc)
    limits = Limits.from_dict(reference["tester_limits"])
    # Not its address space: Envoy, which checks of the mesh start, reserves more than it ever takes. What a
    # process takes is limited as data, by forkserver.
    confinement.set_rlimits(limits, {"cgroup-pids"})
    confinement.become_tester()
    confinement.set_environment_of_tester("student")
    confinement.confine_tester(missing)


def _enter_own_user_namespace(proc: int) -> None:
    """Become nobody but who the student is outside, in a user namespace where it is called the same."""
    owner = os.stat(filesystem.HOME).st_uid  # the student may not give it away
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    syscalls.set_ids(owner, owner, None if owner == os.geteuid() else [])
    held = syscalls.capget()[1]
    syscalls.capset(held, held, 0)  # some hosts let only who has these make one
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # or the maps would not be ours to write
    ownership.write_own_maps(owner, owner, inside=filesystem.USER, proc=proc)


def _join_root(reference: Mapping[str, Any]) -> None:
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    _enter_groups(reference)
    shared = _open(reference["init"], ("net", "ipc", "uts", "cgroup"))
    around, files = (_open(reference["first"], (kind,)) for kind in ("user", "mnt"))
    _enter(files)
    _keep_mounts_as_they_are()
    _enter([*around, *shared])
    syscalls.set_ids(0, 0, [])
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.chdir(rooted_files.HOME)
    confinement.set_environment_of_tester("root")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    system_calls.load("root")


def _keep_mounts_as_they_are() -> None:
    """Take a copy of the mounts that the machine's root owns: neither we nor what we start can change that.

    A program that a check starts has all rights in the user namespace around the student's. It could lay its
    own files over the programs and modules that later checks use.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("tmpfs", PRIVATE, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=700")
    ownership.delegate(PRIVATE, inside=0)


def _enter_groups(reference: Mapping[str, Any]) -> None:
    for group in reference["tester_groups"]:
        cgroup_tree.write(Path(group) / "cgroup.procs", "0")


def _enter_groups_later(reference: Mapping[str, Any]) -> None:
    """Enter the groups when a check starts something for the first time: the kernel takes 10 ms for it.

    The files are opened now: they know who opened them, and the tester becomes nobody.
    """
    ways = [
        os.open(f"{group}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for group in reference["tester_groups"]
    ]

    def enter(event: str, _: object) -> None:
        while ways and event in _STARTS:
            os.write(ways[-1], b"0")
            os.close(ways.pop())

    sys.addaudithook(enter)


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


def _enter(namespaces: Sequence[tuple[int, str]]) -> None:
    """Enter namespaces, the user namespace first: there as its root."""
    for fd, kind in namespaces:
        syscalls.setns(fd, flags_for(kind))
        os.close(fd)
        if kind == "user":
            syscalls.set_ids(0, 0)
