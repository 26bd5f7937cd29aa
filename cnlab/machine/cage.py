"""What confines a machine on its host where strangers' work is graded in it.

Interface: `missing` tries each part in a child and says what this host refuses; `enter` is called in the
process that becomes User-Mode Linux, after `missing` and before the Landlock ruleset is in force.

Who breaks out of the guest's kernel is a process of nobody: without capabilities or new privileges, without a
network, alone in its pid namespace, with the files of the ruleset. Where the Python environment lies in
directories that only root may enter, it keeps root's user id, and nothing else of root.

See: user_namespaces(7), pid_namespaces(7), landlock(7).
"""

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from cnlab import host
from cnlab.linux import syscalls
from cnlab.linux.capability_names import NAMES

NOBODY = 65534
_OWN = (
    syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWPID
)  # all that it can do without


def missing() -> dict[str, str]:
    """Return the parts that this host refuses, and why."""
    tries = {"machine-namespaces": _unshare, "machine-landlock": _require_landlock}
    return {name: reason for name, attempt in tries.items() if (reason := _in_child(attempt))}


def enter(without: Collection[str], needed: Iterable[Path]) -> None:
    """Confine the calling process, which returns as a child of itself; the first waits and ends as that ends.

    Args:
        without: parts to leave out.
        needed: what it must be able to reach, whoever it is.
    """
    if "machine-namespaces" not in without:
        _unshare()
        _fork_and_wait()
    if os.geteuid() == 0 and os.readlink("/proc/self/ns/user") == _initial_user_namespace():
        _drop_root(is_nobody=_becomes_nobody(needed))
    syscalls.set_no_new_privs()


def give(path: Path, needed: Iterable[Path]) -> None:
    """Let nobody use a directory that was made for the machine, if it will be nobody's process."""
    if os.geteuid() == 0 and _becomes_nobody(needed):
        os.chown(path, NOBODY, NOBODY)


def _becomes_nobody(needed: Iterable[Path]) -> bool:
    """Say whether nobody can reach all that is needed; if not, root without capabilities has to own it."""
    return all(map(is_open_to_all, needed))


def _initial_user_namespace() -> str:
    return "user:[4026531837]"  # PROC_USER_INIT_INO: the same on every Linux


def _unshare() -> None:
    if os.geteuid() == 0:
        syscalls.unshare(_OWN)
        return
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | _OWN)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _require_landlock() -> None:
    feature = host.probe("landlock")
    if not feature.is_available:
        raise OSError(0, feature.detail)


def _fork_and_wait() -> None:
    """Return in a child, process 1 of the new pid namespace: with it, all that it starts ends."""
    pid = os.fork()
    if pid == 0:
        syscalls.set_parent_death_signal(signal.SIGKILL)
        return
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _drop_root(*, is_nobody: bool) -> None:
    for number in range(len(NAMES)):
        with contextlib.suppress(OSError):  # a kernel may know fewer
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    if is_nobody:
        syscalls.set_ids(NOBODY, NOBODY, [])
    syscalls.capset(0, 0, 0)
    syscalls.set_parent_death_signal(signal.SIGKILL)  # which a change of ids forgets


def is_open_to_all(path: Path) -> bool:
    """Say whether everybody may enter the directories above `path`."""
    return all(directory.stat().st_mode & 0o001 for directory in path.resolve().parents)


def _in_child(attempt: Callable[[], None]) -> str:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
        except BaseException as error:
            os.write(writing, str(error).encode()[:500])
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as reason:
        said = reason.read()
    os.waitpid(pid, 0)
    return said
