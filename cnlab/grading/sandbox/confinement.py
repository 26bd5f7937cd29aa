"""What the student's process gives up, for good, before the first line of a student's code runs.

A tester gives up the same, but for reading what the student wrote: a check may start a program that it wrote.

See: capabilities(7), landlock(7), getrlimit(2), prctl(2) on ``PR_SET_NO_NEW_PRIVS``.
"""

import contextlib
import math
import os
import resource
import signal
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from cnlab.grading.limits import Limits
from cnlab.grading.sandbox import system_calls
from cnlab.grading.sandbox.filesystem import GROUP, HOME, USER
from cnlab.linux import landlock, syscalls
from cnlab.linux.capability_names import NAMES, mask_of

_WRITABLE = (HOME, "/tmp", "/var/tmp", "/dev/shm", "/dev/pts", "/dev/null", "/dev/zero", "/dev/full")
NO_HOME = "/nonexistent"
_OOM_FIRST = "1000"  # the first to go when the machine itself runs out of memory
_KEPT_BY_TESTER = ("CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH")  # it may read what the student has written


def close_others(keep: Iterable[int]) -> None:
    """Close all descriptors but those in `keep`; 0, 1 and 2 become ``/dev/null`` if they are not kept."""
    kept = sorted({*keep})
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in {0, 1, 2} - {*kept}:
        os.dup2(nothing, fd, inheritable=True)
    first = 3
    for fd in (fd for fd in kept if fd > 2):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = fd + 1
    syscalls.close_range(first, _INT_MAX)


_INT_MAX = 0xFFFF_FFFF


def set_environment(home: str, user: str) -> None:
    """Leave nothing of the instructor's environment but what Python needs to be found."""
    path = [
        f"{sys.prefix}/bin",
        *(f"{usr}/{name}" for usr in ("/usr/local", "/usr", "") for name in ("bin", "sbin")),
    ]
    os.environ.clear()
    os.environ.update(
        {
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/sh",
            "PATH": os.pathsep.join(path),
            "TMPDIR": "/tmp",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }
    )


def set_environment_of_tester(user: str) -> None:
    """Let no program that a check starts take code from where the student can write.

    Its working directory is one such place; a home would be another, for the user's own packages.
    """
    set_environment(NO_HOME, user)
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}


def set_rlimits(limits: Limits, accepted: Collection[str]) -> None:
    """Set what the kernel limits for each process, or for each user of a user namespace.

    Args:
        limits: what is allowed.
        accepted: parts that are missing, in whose place these are.
    """
    wanted = {
        resource.RLIMIT_CORE: 1,  # with 0 a program that /proc/sys/kernel/core_pattern names would run
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CPU: math.ceil(limits.cpu_s) + 1,
        resource.RLIMIT_MEMLOCK: 1 << 16,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: limits.pids * 8,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
    }
    if "cgroup-pids" in accepted:
        wanted[resource.RLIMIT_NPROC] = limits.pids
    if "cgroup-memory" in accepted:
        wanted[resource.RLIMIT_AS] = address_space_bytes() + limits.memory_bytes
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def set_rlimits_of_root(limits: Limits) -> None:
    """Set what a root of its own namespaces cannot raise again."""
    for kind, value in ((resource.RLIMIT_CORE, 1), (resource.RLIMIT_FSIZE, limits.file_bytes)):
        resource.setrlimit(kind, (value, value))


def address_space_bytes() -> int:
    """Return what of its address space the caller has taken."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def become_student(*, has_groups: bool) -> None:
    """Take the student's ids, without any capability: not now, and not by any program to come."""
    _take_ids(keep=0, has_groups=has_groups)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # it may look at itself: /proc/self is the student's


def become_tester() -> None:
    """Take the student's ids, in a user namespace of our own; no program to come has any capability.

    What we start has our ids too, and may trace us as little as the student may: we are not dumpable.
    """
    _take_ids(keep=mask_of(*_KEPT_BY_TESTER), has_groups=False)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # the change of ids has set it again


def _take_ids(*, keep: int, has_groups: bool) -> None:
    with contextlib.suppress(OSError):  # this kernel may not know the last of them yet
        for number in range(len(NAMES)):
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    syscalls.set_ids(USER, GROUP, [] if has_groups else None)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.capset(keep, keep, 0)
    syscalls.set_no_new_privs()


def be_first_to_go() -> None:
    """Let the kernel end the caller, and what it starts, where the machine itself is out of memory."""
    Path("/proc/self/oom_score_adj").write_text(_OOM_FIRST)


def confine(accepted: Collection[str]) -> int | None:
    """Restrict files by Landlock and calls by seccomp; return the descriptor of the filter's listener."""
    be_first_to_go()
    _restrict_files(accepted, [*_WRITABLE, "/proc"])
    return None if "seccomp" in accepted else system_calls.load("plain")


def confine_tester(accepted: Collection[str]) -> None:
    """Restrict a tester's files and calls as a student's; the ``/proc`` it sees is that of others."""
    _restrict_files(accepted, _WRITABLE)
    if "seccomp" not in accepted:
        system_calls.load("tester")


def _restrict_files(accepted: Collection[str], writable: Sequence[str]) -> None:
    if "landlock" not in accepted:
        has_network = "network-namespace" not in accepted  # one of its own; else TCP would be the host's
        landlock.Ruleset(read_only=["/"], read_write=writable, tcp=has_network).restrict_self()


def forget_signals() -> None:
    """Take signals as a fresh process does; clone3 has already removed the handlers."""
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
