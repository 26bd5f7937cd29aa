"""Programs in namespaces of their own: start them, enter theirs, see who is where.

A namespace wraps one kind of global resource, so that its members see an instance of their own. It is made by
clone(2) or unshare(2), lasts while somebody is in it, and is seen only as an inode in ``/proc/PID/ns``.

See: namespaces(7), and the page of each kind, such as pid_namespaces(7).
"""

import contextlib
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cnlab.errors import InvalidValue, MissingFeature
from cnlab.linux import children, mounts, syscalls
from cnlab.linux.children import Child
from cnlab.linux.idmaps import IdMap, read_gid_map, read_uid_map, write_gid_map, write_uid_map
from cnlab.linux.newborn import Program
from cnlab.linux.nsfs import FLAGS, KINDS, Namespace, flags_for, namespaces_of, parse_namespace
from cnlab.linux.processes import Process

__all__ = [
    "FLAGS",
    "KINDS",
    "Child",
    "IdMap",
    "Namespace",
    "flags_for",
    "members",
    "namespaces_of",
    "parse_namespace",
    "read_gid_map",
    "read_uid_map",
    "run",
    "run_in",
    "spawn",
    "write_gid_map",
    "write_time_offsets",
    "write_uid_map",
]


def spawn(
    program: Program,
    *,
    new: Iterable[str] = (),
    hostname: str | None = None,
    uid_map: Sequence[IdMap] | None = None,
    gid_map: Sequence[IdMap] | None = None,
    mount_proc: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    capture: bool = False,
    cgroup: Path | None = None,
) -> contextlib.AbstractContextManager[Child]:
    """Start a program that is born in new namespaces, and end it with the block.

    In a new mount namespace all mounts are made private first, so that nothing it mounts is seen outside.

    Args:
        program: an argument vector, or a function to call in the child.
        new: kinds of namespaces to make, of `KINDS`.
        hostname: its host name; needs a new uts namespace.
        uid_map: its user ids; by default the caller is root inside, with an empty sequence nobody is anybody.
        gid_map: its group ids, likewise.
        mount_proc: mount a `/proc` that shows its pid namespace; needs a new mnt namespace.
        env: environment, by default the caller's.
        cwd: working directory.
        capture: whether `Child.stdout` and `Child.stderr` are pipes, rather than the caller's own.
        cgroup: cgroup v2 directory that it is born in.

    Raises:
        InvalidValue: a kind that does not exist, or an option without the namespace it needs.
        MissingFeature: the kernel is built without that kind.
        OSError: the kernel refused; nothing is left behind.
    """
    kinds = tuple(new)
    flags = flags_for(*kinds)
    # A cgroup namespace is rooted where its maker is; clone3 makes it before it moves the child to its group.
    unshared = flags & syscalls.CLONE_NEWCGROUP if cgroup is not None else 0
    _require_kinds(kinds)
    _require_option(hostname is not None, "hostname", "uts", kinds)
    _require_option(mount_proc, "mount_proc", "mnt", kinds)
    _require_option(uid_map is not None, "uid_map", "user", kinds)
    _require_option(gid_map is not None, "gid_map", "user", kinds)
    uids = [IdMap(0, os.geteuid())] if uid_map is None else uid_map
    gids = [IdMap(0, os.getegid())] if gid_map is None else gid_map

    def write_id_maps(pid: int) -> None:
        if "user" in kinds:
            if gids:
                write_gid_map(pid, gids)
            if uids:
                write_uid_map(pid, uids)

    def prepare() -> None:
        if "user" in kinds:
            _become_root(uids, gids)
        if unshared:
            syscalls.unshare(unshared)
        if hostname is not None:
            syscalls.sethostname(hostname)
        if "mnt" in kinds:
            mounts.make_private("/")
        if mount_proc:
            flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
            syscalls.mount("proc", "/proc", "proc", flags)

    return children.start(
        program,
        flags=flags & ~unshared,
        cgroup=cgroup,
        in_parent=write_id_maps,
        in_child=prepare,
        env=env,
        cwd=cwd,
        capture=capture,
    )


def run(
    argv: Sequence[str],
    *,
    new: Iterable[str] = (),
    hostname: str | None = None,
    uid_map: Sequence[IdMap] | None = None,
    gid_map: Sequence[IdMap] | None = None,
    mount_proc: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    check: bool = False,
    timeout_s: float = 30,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in new namespaces and return its exit code and what it said.

    The options are those of `spawn`. When it ends, or after `timeout_s`, whatever it started is killed.

    Raises:
        subprocess.TimeoutExpired: it has not ended after `timeout_s`.
        subprocess.CalledProcessError: `check` is true and its exit code is not 0.
    """
    with spawn(
        argv,
        new=new,
        hostname=hostname,
        uid_map=uid_map,
        gid_map=gid_map,
        mount_proc=mount_proc,
        env=env,
        cwd=cwd,
        capture=True,
    ) as child:
        return children.complete(child, argv, timeout_s=timeout_s, check=check)


def run_in(
    target: int | Child,
    argv: Sequence[str],
    *,
    kinds: Iterable[str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    check: bool = False,
    timeout_s: float = 30,
) -> subprocess.CompletedProcess[str]:
    """Run a command in the namespaces of a running process, as ``nsenter`` and ``docker exec`` do.

    Args:
        target: a pid, or a child of `spawn`.
        argv: the command.
        kinds: which of its namespaces; by default all. Those that we share are skipped.
        env: environment, by default the caller's.
        cwd: working directory, looked up inside.
        check: raise when the exit code is not 0.
        timeout_s: seconds until it is killed.

    Raises:
        ProcessLookupError: the process has ended.
        PermissionError: the namespaces belong to somebody else.

    See: setns(2) with a pidfd, since Linux 5.8.
    """
    pid = target.pid if isinstance(target, Child) else target
    pidfd = syscalls.pidfd_open(pid)
    try:
        theirs, ours = namespaces_of(pid), namespaces_of()
        wanted = KINDS if kinds is None else tuple(kinds)
        flags = flags_for(*wanted) & flags_for(*(kind for kind in theirs if theirs[kind] != ours.get(kind)))

        def enter() -> None:
            if flags:
                syscalls.setns(pidfd, flags)
            if flags & syscalls.CLONE_NEWUSER:
                _become_root(read_uid_map(), read_gid_map())

        with children.start(
            argv,
            in_child=enter,
            fork_again=bool(flags & syscalls.CLONE_NEWPID),
            env=env,
            cwd=cwd,
            capture=True,
        ) as child:
            return children.complete(child, argv, timeout_s=timeout_s, check=check)
    finally:
        os.close(pidfd)


def members(processes: Iterable[Process]) -> dict[Namespace, list[Process]]:
    """Return who is in which namespace: the map of the processes given, kinds and inodes in order."""
    found: dict[Namespace, list[Process]] = {}
    for process in processes:
        for namespace in process.namespaces.values():
            found.setdefault(namespace, []).append(process)
    return dict(sorted(found.items()))


def write_time_offsets(*, monotonic_s: int = 0, boottime_s: int = 0) -> None:
    """Set the clocks of the time namespace that the caller has unshared, before a child is born in it.

    See: time_namespaces(7).
    """
    text = f"monotonic {monotonic_s} 0\nboottime {boottime_s} 0\n"
    Path("/proc/self/timens_offsets").write_text(text)


def _require_kinds(kinds: Iterable[str]) -> None:
    for kind in kinds:
        if not os.path.lexists(f"/proc/self/ns/{kind}"):
            raise MissingFeature(
                f"{kind}ns", f"/proc/self/ns has no {kind!r}: the kernel is built without it"
            )


def _require_option(is_given: bool, option: str, kind: str, kinds: Sequence[str]) -> None:
    if is_given and kind not in kinds:
        raise InvalidValue(f"{option} needs a new {kind} namespace: add {kind!r} to new={kinds!r}")


def _become_root(uids: Sequence[IdMap], gids: Sequence[IdMap]) -> None:
    """Take the id 0 of a user namespace, where it has one."""
    has_uid, has_gid = (any(m.inside == 0 for m in maps) for maps in (uids, gids))
    syscalls.set_ids(0 if has_uid else syscalls.SAME_ID, 0 if has_gid else syscalls.SAME_ID)
