"""The first process of a sandbox, once the student's has begun: it watches, reaps, and ends everything.

It runs no code of a student's and reads nothing that a student wrote. When the zygote has gone it kills all
processes of its pid namespace and removes the control groups: nobody else would.

See: pid_namespaces(7), "The namespace init process"; seccomp_unotify(2).
"""

import contextlib
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, field, replace
from typing import NoReturn

from cnlab.grading.limits import Limits, Usage
from cnlab.grading.sandbox import confinement, messages, system_calls, watchdog
from cnlab.grading.sandbox.groups import Group, Reading
from cnlab.linux import syscalls
from cnlab.linux.capability_names import mask_of

COUNTED_BY_GROUPS = frozenset({"cgroup-memory", "cgroup-cpu"})
"""Parts without which processes are looked at one by one."""

_LOOK_EVERY_S = 0.1


@dataclass(slots=True)
class Post:
    """What there is to watch."""

    limits: Limits
    group: Group
    missing: frozenset[str]
    zygote: socket.socket
    student: int
    proc: int  # a directory of /proc that hides nobody
    listener: int | None
    disk: int  # a directory of the file system that can be written
    watch: watchdog.Watch
    refusals: watchdog.Refusals = field(default_factory=watchdog.Refusals)
    began: float = field(default_factory=time.monotonic)

    @property
    def counts_itself(self) -> bool:
        """Whether no control group counts memory or processor time here."""
        return bool(COUNTED_BY_GROUPS & self.missing)


def keep_watch(post: Post) -> NoReturn:
    """Stay until the zygote says that it is over, or is gone."""
    try:
        _stand_back(post)
        while _serve(post):
            pass
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            end_all()
            post.group.remove()
        os._exit(0)


def _stand_back(post: Post) -> None:
    """Keep only what watching needs: few descriptors, to kill, to remove groups below a read-only root."""
    kept = {post.zygote.fileno(), post.proc, post.disk, *post.group.fds}
    confinement.close_others(kept if post.listener is None else {*kept, post.listener})
    post.zygote.setblocking(False)
    wanted = mask_of("CAP_KILL", "CAP_DAC_OVERRIDE", *(["CAP_SYS_PTRACE"] if post.counts_itself else []))
    keep = wanted & syscalls.capget()[1]
    syscalls.capset(keep, keep, 0)
    syscalls.set_no_new_privs()


def _serve(post: Post) -> bool:
    """Do what is to be done now, or wait for it a little; return whether to go on."""
    ready = select.poll()
    ready.register(post.zygote, select.POLLIN)
    if post.listener is not None:
        ready.register(post.listener, select.POLLIN)
    events = dict(ready.poll(_LOOK_EVERY_S * 1000))
    if post.listener in events:
        _refuse(post, events[post.listener])
    if post.zygote.fileno() in events:
        if messages.receive(post.zygote) is None:
            return False
        look(post)
        messages.send(post.zygote, {"looked": usage(post).to_dict()})
    elif not events or time.monotonic() >= post.watch.next_look:
        look(post)
    return True


def _refuse(post: Post, event: int) -> None:
    assert post.listener is not None
    if not event & select.POLLIN:  # nobody is left under the filter
        os.close(post.listener)
        post.listener = None
    elif (name := system_calls.refuse(post.listener)) and (told := post.refusals.add(name)):
        messages.send(post.zygote, {"event": told.to_dict()})


def look(post: Post) -> None:
    """Reap who has ended, tell what is new, and end everything if a limit says so."""
    post.watch.next_look = time.monotonic() + _LOOK_EVERY_S
    _reap()
    disk = os.fstatvfs(post.disk)
    events = post.watch.look(
        reading(post),
        wall_s=time.monotonic() - post.began,
        disk_left=min(disk.f_bavail, disk.f_ffree),
    )
    for event in events:
        messages.send(post.zygote, {"event": event.to_dict()})
    if post.watch.is_over:
        _kill_all()


def reading(post: Post) -> Reading:
    """Ask the control groups, and count for those that are missing."""
    counted = post.group.reading()
    if not post.counts_itself:
        return counted
    own = watchdog.count_processes(post.proc)
    if "cgroup-cpu" in post.missing:
        counted = replace(counted, cpu_s=own.cpu_s)
    if "cgroup-memory" in post.missing:
        disk = os.fstatvfs(post.disk)
        files = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        counted = replace(counted, memory_peak_bytes=own.memory_peak_bytes + files)
    return counted


def usage(post: Post) -> Usage:
    """Return what was used, the peak as far as we have seen it."""
    return Usage(cpu_s=post.watch.last.cpu_s, memory_peak_bytes=post.watch.peak_bytes)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _kill_all() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)  # all that this process sees, but for itself


def end_all() -> None:
    """Kill every process of our pid namespace, and return when none is left."""
    _kill_all()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)  # their orphans become our children
