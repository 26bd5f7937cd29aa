"""The parts that a sandbox is made of: which of them this host has, found by trying each.

A part that is missing is accepted by its name or nothing is graded: a sandbox with a hole looks like one
without. What the whole is built on, such as user namespaces, cannot be accepted as missing.
"""

import gc
import os
import time
from collections.abc import Callable, Collection
from functools import cache
from typing import Literal

from cnlab import host
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.grading.limits import MIB, Limits
from cnlab.grading.sandbox import filesystem, groups, messages, ownership, system_calls
from cnlab.linux import syscalls

Flavour = Literal["plain", "root"]

_TRY_CPU_S = 2.0

INDISPENSABLE = ("user-namespace", "pid-namespace", "mount-namespace", "private-root", "no-new-privs")
"""Without these there is no sandbox at all."""


def parts(flavour: Flavour = "plain") -> dict[str, str]:
    """Return the parts of the sandbox by name, each with "" or why this host refuses it."""
    found = _found(os.geteuid(), os.readlink("/proc/self/ns/user"))
    return {name: reason for name, reason in found if flavour == "plain" or name != "landlock"}


@cache
def _found(user: int, namespace: str) -> tuple[tuple[str, str], ...]:
    """Try each part once; somebody else, and root of another user namespace, may do other things."""
    return tuple((name, _reason(attempt)) for name, attempt in _ATTEMPTS.items())


def require_parts(accepted: Collection[str] = (), flavour: Flavour = "plain") -> tuple[str, ...]:
    """Go on only if this host has every part, or the instructor accepts that it is missing.

    Returns:
        The accepted parts that are indeed missing.

    Raises:
        InvalidValue: a name that is no part, or one that cannot be done without.
        MissingFeature: a part is missing and not accepted.
    """
    for name in accepted:
        if name not in _ATTEMPTS or name in INDISPENSABLE:
            known = ", ".join(name for name in _ATTEMPTS if name not in INDISPENSABLE)
            raise InvalidValue(f"{name!r} is no part that grading can do without; those are {known}")
    missing = {name: reason for name, reason in parts(flavour).items() if reason}
    if refused := [name for name in missing if name not in accepted]:
        raise _refusal({name: missing[name] for name in refused})
    return tuple(missing)


def _refusal(missing: dict[str, str]) -> MissingFeature:
    told = "; ".join(f"{name} ({reason})" for name, reason in missing.items())
    error = MissingFeature("sandbox", f"this host refuses {told}; nothing was graded")
    if hopeless := [name for name in missing if name in INDISPENSABLE]:
        names = ", ".join(hopeless)
        error.add_note(f"Hint: there is no sandbox without {names}; mend that, or grade on another machine")
    else:
        error.add_note(
            "Hint: grade on another machine or as root, or accept a weaker sandbox with"
            f" --accept {','.join(missing)}"
        )
    return error


def _reason(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (OSError, MissingFeature, AssertionError) as error:
        return str(error)
    return ""


def _in_child(attempt: Callable[[], object], *, flags: int = 0) -> int:
    """Call `attempt` in a child; raise its error, or return the signal that ended it, if any."""
    is_root = ownership.can_lend_ids()
    user, group = os.geteuid(), os.getegid()
    ours, theirs = messages.pair()
    pid, pidfd = syscalls.clone3(flags | (0 if is_root or not flags else syscalls.CLONE_NEWUSER))
    if pid == 0:
        try:
            gc.freeze()
            ours.close()
            if flags and not is_root:
                ownership.write_own_maps(user, group)
            attempt()
        except BaseException as error:
            messages.send(theirs, messages.failure(error))
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        answer = messages.receive(ours)
    ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    if answer is not None:
        messages.raise_failure(answer[0])
    assert ended is not None
    return 0 if ended.si_code == os.CLD_EXITED else ended.si_status


def _host(feature: str) -> Callable[[], object]:
    return lambda: host.require(feature)


def _private_root() -> None:
    def attempt() -> None:
        proc = filesystem.open_proc()
        filesystem.build(Limits(), {}, os.geteuid())
        assert os.path.isdir(f"/proc/self/fd/{proc}")

    _in_child(attempt, flags=syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)


def _seccomp() -> None:
    def attempt() -> None:
        syscalls.set_no_new_privs()
        system_calls.load("plain")

    _in_child(attempt)


def _in_group(
    controller: str, limits: Limits, attempt: Callable[[groups.Group], object]
) -> tuple[int, groups.Reading]:
    """Call `attempt` in a group with one controller; return what ended its process, and what was counted."""
    missing = [part for name, part in groups.PARTS.items() if name != controller]
    group = groups.make(f"try-{controller}-{os.getpid()}", limits, missing)
    try:

        def program() -> None:
            group.enter()
            attempt(group)

        return _in_child(program), group.reading()
    finally:
        group.remove()
        group.close()


def _cgroup_memory() -> None:
    ended_by, counted = _in_group("memory", Limits(memory_bytes=16 * MIB), lambda _: bytearray(64 * MIB))
    assert ended_by, f"a process with a limit of 16 MiB took 64 MiB, {counted.oom_kills} processes killed"


def _cgroup_pids() -> None:
    def attempt(_: groups.Group) -> None:
        try:
            if os.fork() == 0:
                os._exit(0)
        except BlockingIOError:
            return
        raise OSError(0, "a process with a limit of 1 could fork")

    _in_group("pids", Limits(pids=1), attempt)


def _cgroup_cpu() -> None:
    def attempt(group: groups.Group) -> None:
        deadline = time.monotonic() + _TRY_CPU_S
        while not group.reading().cpu_s and time.monotonic() < deadline:  # some kernels count whole ticks
            pass

    _, counted = _in_group("cpu", Limits(), attempt)
    assert counted.cpu_s > 0, "the processor time of a process was not counted"


_ATTEMPTS: dict[str, Callable[[], object]] = {
    "user-namespace": _host("userns"),
    "pid-namespace": _host("pidns"),
    "mount-namespace": _host("mntns"),
    "network-namespace": _host("netns"),
    "ipc-namespace": _host("ipcns"),
    "uts-namespace": _host("utsns"),
    "cgroup-namespace": _host("cgroupns"),
    "private-root": _private_root,
    "no-new-privs": lambda: _in_child(syscalls.set_no_new_privs),
    "seccomp": _seccomp,
    "landlock": _host("landlock"),
    "cgroup-memory": _cgroup_memory,
    "cgroup-pids": _cgroup_pids,
    "cgroup-cpu": _cgroup_cpu,
}
