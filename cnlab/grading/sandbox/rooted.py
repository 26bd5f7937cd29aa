"""The processes of a sandbox whose student is root, inside a private kernel.

    zygote ── T: in a user namespace, where ids 0 to 999999 are nobody's; watches (`guard`)
               └── process 1 of the student's user namespace, which owns all other namespaces: reaps
                    └── the student's process

A tester becomes root of T's user namespace: it sees the ids that the student sees, has every right over the
student's namespaces and none over the machine, and the student has none over it. Its mount namespace is a
copy, made before any student's code ran: nothing that is mounted later is seen there.

See: user_namespaces(7), mount_namespaces(7), cgroups(7) on delegation.
"""

import contextlib
import gc
import os
import signal
import socket
from typing import NoReturn

from cnlab.grading.sandbox import (
    confinement,
    guard,
    messages,
    ownership,
    rooted_files,
    system_calls,
    watchdog,
)
from cnlab.grading.sandbox.plan import Plan, run
from cnlab.linux import mounts, netns, syscalls
from cnlab.linux.idmaps import IdMap, write_gid_map, write_uid_map

_OWN = (
    syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
)


def live_as_first(plan: Plan, zygote: socket.socket) -> NoReturn:
    """Be T: fork process 1, take the tester's view of its files, then watch."""
    try:
        gc.freeze()
        os.setsid()
        if messages.receive(zygote) is None:  # it has written the id maps
            os._exit(1)
        syscalls.set_ids(0, 0, [])
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # or the id maps of our child would not be ours to write
        mounts.make_private("/")
        syscalls.mount("proc", "/proc", "proc")  # where our child has the number that we know
        init, init_pidfd, init_socket = _fork_init(plan)
        student, pidfd = _follow(init_socket, init_pidfd)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        proc, disk = (
            os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in ("/proc", "/tmp")
        )
    except BaseException as error:
        messages.send(zygote, messages.failure(error))
        os._exit(1)
    messages.send(zygote, {"begun": student}, [pidfd, proc, init_pidfd])
    watch = watchdog.Watch(plan.limits)
    guard.keep_watch(guard.Post(plan.limits, plan.group, plan.missing, zygote, init, proc, None, disk, watch))


def _fork_init(plan: Plan) -> tuple[int, int, socket.socket]:
    ours, theirs = messages.pair()
    pid, pidfd = syscalls.clone3(_OWN | syscalls.CLONE_CLEAR_SIGHAND)
    if pid == 0:
        ours.close()
        _live_as_init(plan, theirs)
    theirs.close()
    ids = [IdMap(0, 0, ownership.STUDENT_IDS)]
    write_gid_map(pid, ids)
    write_uid_map(pid, ids)
    messages.send(ours, {"go": True})
    return pid, pidfd, ours


def _follow(init: socket.socket, pidfd: int) -> tuple[int, int]:
    """Copy the view of the files once it is built, and let the student begin; return its pid and pidfd."""
    _hear(init)
    syscalls.setns(pidfd, syscalls.CLONE_NEWNS)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_private("/")
    syscalls.mount(rooted_files.TESTER_PROC, "/proc", flags=syscalls.MS_BIND | syscalls.MS_REC)
    messages.send(init, {"go": True})
    message, fds = _hear(init)
    init.close()
    return int(message["student"]), fds[0]


def _hear(other: socket.socket) -> tuple[messages.Message, list[int]]:
    received = messages.receive(other)
    if received is None:
        raise ChildProcessError("process 1 of the sandbox ended before it began")
    messages.raise_failure(received[0])
    return received


def _live_as_init(plan: Plan, first: socket.socket) -> NoReturn:
    try:
        if messages.receive(first) is None:
            os._exit(1)
        syscalls.set_ids(0, 0, [])
        plan.group.enter_delegated()
        syscalls.sethostname("cnlab")  # as on the student's own private kernel
        netns.set_loopback_up()
        rooted_files.build(plan.limits, plan.files, has_cgroups=bool(plan.group.testers))
        messages.send(first, {"built": True})
        if messages.receive(first) is None:
            os._exit(1)
        syscalls.umount(rooted_files.TESTER_PROC, syscalls.MNT_DETACH)
        os.rmdir(rooted_files.TESTER_PROC)
        pid, pidfd = syscalls.clone3(syscalls.CLONE_CLEAR_SIGHAND)
        if pid == 0:
            _live_as_student(plan, first)
        messages.send(first, {"student": pid}, [pidfd])
        confinement.close_others(())
    except BaseException as error:
        messages.send(first, messages.failure(error))
        os._exit(1)
    _reap_for_ever()


def _reap_for_ever() -> NoReturn:
    while True:
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        signal.sigtimedwait([signal.SIGCHLD], 1.0)


def _live_as_student(plan: Plan, first: socket.socket) -> NoReturn:
    try:
        os.setsid()
        confinement.close_others({first.fileno(), *plan.keep_fds})
        confinement.forget_signals()
        confinement.set_environment(rooted_files.HOME, "root")
        confinement.set_rlimits_of_root(plan.limits)
        os.chdir(rooted_files.HOME)
        if "seccomp" not in plan.missing:
            system_calls.load("root")
        first.close()
    except BaseException as error:
        messages.send(first, messages.failure(error))
        os._exit(1)
    run(plan.program)
