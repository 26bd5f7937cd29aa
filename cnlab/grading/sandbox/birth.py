"""How the processes of a sandbox come into being, from the zygote's fork to a student's first line.

    zygote ── T, process 1 of the sandbox: makes the root, then watches (`guard`)
               └── the student's process: in a user namespace of its own, with no rights over T

A process of the same user may not touch T all the same: T is in another user namespace, is not dumpable, and
as process 1 hears no signals from inside.

See: user_namespaces(7), pid_namespaces(7).
"""

import gc
import os
import socket
from typing import NoReturn

from cnlab.grading.sandbox import (
    confinement,
    filesystem,
    group_removal,
    guard,
    messages,
    ownership,
    parts,
    rooted,
    system_calls,
    watchdog,
)
from cnlab.grading.sandbox.parts import Flavour
from cnlab.grading.sandbox.plan import Plan, run
from cnlab.linux import netns, syscalls
from cnlab.linux.idmaps import IdMap, write_gid_map, write_uid_map


def warm_up(flavour: Flavour = "plain") -> None:
    """Find out here what would else be found out anew in each sandbox, and clean up after killed ones."""
    group_removal.remove_stale()
    if flavour == "plain":
        parts.parts()
    filesystem.environment_paths()
    filesystem.system_paths()
    for name in (flavour, "tester"):
        system_calls.program(name)


def begin(plan: Plan) -> tuple[int, int, socket.socket]:
    """Fork T, which makes the sandbox and forks the student; return its pid, pidfd and socket at once."""
    ours, theirs = messages.pair()
    student_id = plan.student_id
    user, group = os.geteuid(), os.getegid()
    pid, pidfd = syscalls.clone3(plan.namespaces | syscalls.CLONE_CLEAR_SIGHAND)
    if pid == 0:
        try:
            ours.close()
            if plan.flavour == "root":
                rooted.live_as_first(plan, theirs)
            _live_as_first(plan, theirs, student_id, user, group)
        finally:
            os._exit(1)
    theirs.close()
    if plan.flavour == "root":
        ownership.lend_ids(pid)
        messages.send(ours, {"go": True})
    return pid, pidfd, ours


def _live_as_first(plan: Plan, zygote: socket.socket, student_id: int, user: int, group: int) -> NoReturn:
    try:
        gc.freeze()  # a collection would touch, and so copy, all of the zygote's memory
        os.setsid()
        if not plan.is_root:
            ownership.write_own_maps(user, group)
        if "uts-namespace" not in plan.missing:
            syscalls.sethostname("sandbox")
        if "network-namespace" not in plan.missing:
            netns.set_loopback_up()
        proc = filesystem.open_proc()
        filesystem.build(plan.limits, plan.files, student_id)
        student, pidfd, listener = _fork_student(plan, student_id)
    except BaseException as error:
        messages.send(zygote, messages.failure(error))
        os._exit(1)
    messages.send(zygote, {"begun": student}, [pidfd, proc])
    disk = os.open("/var", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    watch = watchdog.Watch(plan.limits)
    guard.keep_watch(
        guard.Post(plan.limits, plan.group, plan.missing, zygote, student, proc, listener, disk, watch)
    )


def _fork_student(plan: Plan, student_id: int) -> tuple[int, int, int | None]:
    ours, theirs = messages.pair()
    pid, pidfd = syscalls.clone3(syscalls.CLONE_NEWUSER | syscalls.CLONE_CLEAR_SIGHAND)
    if pid == 0:
        ours.close()
        _live_as_student(plan, theirs)
    theirs.close()
    write_gid_map(pid, [IdMap(filesystem.GROUP, student_id)])
    write_uid_map(pid, [IdMap(filesystem.USER, student_id)])
    if (
        plan.is_root
    ):  # else its owner could not enter its namespaces; the user namespace keeps the student out
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    messages.send(ours, {"go": True})
    answer = messages.receive(ours)
    ours.close()
    if answer is None:
        raise ChildProcessError("the student's process ended before it began")
    message, fds = answer
    messages.raise_failure(message)
    return pid, pidfd, fds[0] if fds else None


def _live_as_student(plan: Plan, first: socket.socket) -> NoReturn:
    try:
        if messages.receive(first) is None:
            os._exit(1)
        plan.group.enter()
        if "cgroup-namespace" not in plan.missing:
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        os.setsid()
        confinement.close_others({first.fileno(), *plan.keep_fds})
        confinement.forget_signals()
        confinement.set_environment(filesystem.HOME, "student")
        confinement.set_rlimits(plan.limits, plan.missing)
        confinement.become_student(has_groups=plan.is_root)
        os.chdir(filesystem.HOME)
        listener = confinement.confine(plan.missing)
        messages.send(first, {"ready": True}, [] if listener is None else [listener])
        if listener is not None:
            os.close(listener)
        first.close()
    except BaseException as error:
        messages.send(first, messages.failure(error))
        os._exit(1)
    run(plan.program)
