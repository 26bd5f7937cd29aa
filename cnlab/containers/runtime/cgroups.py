"""A container's control groups: one directory in each version 1 tree, or one in the version 2 tree.

Interface: ``groups = Cgroups.create(path, container_id, resources)``, then `enter` or `birth_fd` for its
processes, `apply`, `freeze`, `thaw`, `pids`, `signal_all` and `stats` while it lives, `remove` in the end.
`to_json` and `from_json` carry the object from one call of the command to the next.

Limits are only ever written into directories that `create` made. On a hybrid host the controllers are in the
version 1 trees, so those are used. A tree where the caller may make no group is left out, unless a limit is
asked of it.

See: cgroups(7); runtime-spec, config-linux.md, "Control groups".
"""

from __future__ import annotations

import errno
import os
import time

from cnlab.containers.runtime.cgroup_trees import OWN_PARENT, Tree, find_trees, group_path, read, write
from cnlab.errors import MissingFeature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_SIGKILL = 9
_TIMEOUT_S = 10.0
_ATTEMPTS = 10
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_BUSY = (errno.EBUSY, errno.ENOTEMPTY)


class Cgroups:
    """The groups of one container; made by `create`, unmade by `remove`."""

    def __init__(self, version: int, directories: dict[str, str], made: Iterable[str] = ()) -> None:
        self.version = version
        self._trees: list[Tree] = []  # known to who made the groups
        self._directories = directories  # by the tree's name
        self._made = list(made)  # groups above, which go with the last container in them

    @classmethod
    def create(cls, path: str | None, container_id: str, resources: dict[str, Any]) -> Cgroups:
        """Make a group in each tree and set its limits; if that fails, nothing is left.

        Args:
            path: ``cgroupsPath``: below the mount points of the trees if it is absolute, else below a group
                ``cnlab`` there, or in the caller's own group where he may write no other.
            container_id: names the group, ``cnlab-ID``, if there is no path.
            resources: ``linux.resources``.

        Raises:
            FileExistsError: there is such a group already; its limits are somebody else's.
            MissingFeature: a limit whose controller is not there.
            InvalidValue: a limit or path that makes no sense.
        """
        from cnlab.containers.runtime.resources import check

        check(resources)
        below = group_path(path, container_id)
        trees = find_trees()
        groups = cls(trees[0].version, {})
        groups._trees = trees
        try:
            for tree in trees:
                groups._make(tree, below)
            groups.apply(resources)
        except BaseException:
            groups.remove()
            raise
        return groups

    def _make(self, tree: Tree, below: str) -> None:
        base = tree.mount_point if below.startswith("/") or tree.is_open() else tree.own_group()
        *parents, name = below.strip("/").split("/")
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                directory = self._make_parents(tree, base, parents)
                tree.make(f"{directory}/{name}")
            except OSError as error:
                if error.errno == errno.ENOENT and attempts_left:
                    continue  # the last container in a parent has just taken it away
                if error.errno in _FORBIDDEN:
                    return
                if error.errno == errno.EEXIST:
                    error.add_note("Hint: choose another cgroupsPath, or remove what was left there")
                raise
            self._directories[tree.name] = f"{directory}/{name}"
            return

    def _make_parents(self, tree: Tree, base: str, names: list[str]) -> str:
        directory = base
        for name in names:
            directory = f"{directory}/{name}"
            try:
                tree.make(directory)
            except FileExistsError:
                if name != OWN_PARENT:
                    continue
            self._made.append(directory)
        return directory

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Cgroups:
        """Return the object that `to_json` told of."""
        return cls(state["version"], state["directories"], state["made"])

    def to_json(self) -> dict[str, Any]:
        """Return what the next call of the command needs to know."""
        return {"version": self.version, "directories": self._directories, "made": self._made}

    @property
    def directories(self) -> list[str]:
        """The container's groups; none where the caller may make none."""
        return list(self._directories.values())

    def directory_of(self, controller: str) -> str:
        """Return the group that `controller` acts on.

        Raises:
            MissingFeature: there is none.
        """
        for name, directory in self._directories.items():
            if self.version == 2 or controller in name.split(","):
                return directory
        reason = f"the container has no group with controller {controller!r}"
        hint = "this host has no such controller, or you may make no groups here; see cgroups(7)"
        raise MissingFeature("cgroup", reason, hint=hint)

    def mounts(self) -> list[tuple[str, str, str]]:
        """Return what the mount of type ``cgroup`` shows: (name of its directory, mount data, group).

        Version 2 is one mount and has no name; version 1 is one mount for each tree.
        """
        return [
            (tree.basename, tree.options, self._directories[tree.name])
            for tree in self._trees
            if tree.name in self._directories
        ]

    def links(self) -> list[tuple[str, str]]:
        """Return (``cpu``, ``cpu,cpuacct``) and so on: links beside the mounts of shared version 1 trees."""
        trees = [tree for tree in self._trees if "," in tree.basename]
        return [(name, tree.basename) for tree in trees for name in tree.controllers]

    def birth_fd(self) -> int | None:
        """Open the group for ``CLONE_INTO_CGROUP``; None in version 1, where nobody is born into a group."""
        if self.version == 1 or not self._directories:
            return None
        return os.open(self.directories[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def enter(self, pid: int) -> None:
        """Move process `pid` into the groups.

        Raises:
            ProcessLookupError: there is no such process.
        """
        for directory in self.directories:
            write(f"{directory}/cgroup.procs", str(pid))

    def enter_self(self) -> None:
        """Move the caller into the groups, if it has one thread: ``tasks`` then spares the kernel a lock."""
        file = "tasks" if self.version == 1 else "cgroup.procs"
        for directory in self.directories:
            write(f"{directory}/{file}", "0")

    def apply(self, resources: dict[str, Any]) -> None:
        """Set limits, now or while the container runs; what is left out stays."""
        from cnlab.containers.runtime import limits  # which most commands do without

        limits.apply(self, resources)

    def freeze(self) -> None:
        """Stop all that runs in the group, and return when it has stopped.

        Raises:
            TimeoutError: a process does not stop; all go on then.
        """
        self._write_frozen(True)
        if not _wait_until(self._has_stopped):
            self.thaw()
            raise TimeoutError(f"{self.directory_of('freezer')} does not freeze within {_TIMEOUT_S:g} s")

    def thaw(self) -> None:
        """Let it run again."""
        self._write_frozen(False)

    def _write_frozen(self, frozen: bool) -> None:
        directory = self.directory_of("freezer")
        if self.version == 2:
            write(f"{directory}/cgroup.freeze", "1" if frozen else "0")
        else:
            write(f"{directory}/freezer.state", "FROZEN" if frozen else "THAWED")

    def _has_stopped(self) -> bool:
        directory = self.directory_of("freezer")
        if self.version == 2:
            return "frozen 1" in read(f"{directory}/cgroup.events")
        if read(f"{directory}/freezer.state") == "FROZEN\n":
            return True
        self._write_frozen(True)  # a fork in the midst of it may have escaped
        return False

    @property
    def is_frozen(self) -> bool:
        """Whether somebody has frozen it."""
        try:
            directory = self.directory_of("freezer")
            if self.version == 2:
                return read(f"{directory}/cgroup.freeze") == "1\n"
            return read(f"{directory}/freezer.state") != "THAWED\n"
        except (FileNotFoundError, MissingFeature):
            return False

    def pids(self) -> list[int]:
        """Return the processes in the group and below, as the caller's pid namespace numbers them."""
        found: set[int] = set()
        for directory in self.directories[:1]:
            for path, _, _ in os.walk(directory):
                try:
                    found.update(map(int, read(f"{path}/cgroup.procs").split()))
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                        raise
        return sorted(found - {0})

    def signal_all(self, number: int) -> None:
        """Send a signal to all processes, so that none forks away from it."""
        if not self.pids():
            return
        if number == _SIGKILL and self._kill_at_once():
            return
        was_frozen = self.is_frozen
        self.freeze()
        try:
            for pid in self.pids():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        finally:
            if number == _SIGKILL or not was_frozen:
                self.thaw()  # the version 1 freezer holds even SIGKILL back

    def _kill_at_once(self) -> bool:
        if self.version == 1:
            return False
        try:
            write(f"{self.directories[0]}/cgroup.kill", "1")
        except FileNotFoundError:  # before Linux 5.14
            return False
        return True

    def stats(self) -> dict[str, Any]:
        """Return what the container uses, as ``runc events --stats`` shapes it."""
        from cnlab.containers.runtime import cgroup_stats

        return cgroup_stats.stats(self)

    def remove(self) -> None:
        """Take the groups away when the last process has left them, with groups made below.

        Raises:
            OSError: EBUSY, somebody still runs there after 10 s.
        """
        for directory in self.directories:
            if not _wait_until(_has_gone, directory):
                raise OSError(errno.EBUSY, f"rmdir({directory}): {os.strerror(errno.EBUSY)}")
        for directory in reversed(self._made):
            try:
                os.rmdir(directory)
            except OSError as error:
                if error.errno not in (*_BUSY, errno.ENOENT):
                    raise


def _has_gone(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in _BUSY:
            raise
        return _has_gone_with_those_below(directory)
    return True


def _has_gone_with_those_below(directory: str) -> bool:
    try:
        for path, _, _ in os.walk(directory, topdown=False):
            os.rmdir(path)
    except OSError as error:
        if error.errno not in (*_BUSY, errno.ENOENT):
            raise
    return not os.path.isdir(directory)


def _wait_until(condition: Callable[..., bool], *arguments: str) -> bool:
    deadline = time.monotonic() + _TIMEOUT_S
    pause_s = 0.0002
    while not condition(*arguments):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.01)
    return True
