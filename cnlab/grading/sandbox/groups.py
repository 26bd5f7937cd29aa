"""The control groups of one sandbox: what it may use together, and what it has used.

Interface: ``group = make(name, limits, accepted)``; `Group.enter` moves the caller in; `Group.reading` says
what was used and how often a limit was met; `Group.remove` removes the directories, once nobody is in.

A group is one directory in the version 2 tree, or one in each of three version 1 trees. Its files are opened
once, by its maker: a process that has left for another root or user can still read them. Beside it lies one
for the tester and what that starts, so that neither uses up what the other may.

See: cgroups(7).
"""

import contextlib
import fcntl
import functools
import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from cnlab.clock import wait_until
from cnlab.errors import MissingFeature
from cnlab.grading.limits import Limits
from cnlab.grading.sandbox import group_removal, group_trees, ownership
from cnlab.grading.sandbox.group_removal import PREFIX
from cnlab.linux import cgroup_tree, syscalls
from cnlab.linux.cgroup_files import parse_flat_keyed

PARTS = {controller: f"cgroup-{controller}" for controller in group_trees.CONTROLLERS}
_EMPTY_TIMEOUT_S = 10.0
_PERIOD_US = 100_000
_MAX_DEPTH, _MAX_DESCENDANTS = 32, 1000  # of groups that a student who is root makes
_TESTER_SHARE = 2  # of the memory: it holds what was expected beside what came


@dataclass(frozen=True, slots=True)
class Reading:
    """What the kernel has counted so far; 0 for a controller that is missing."""

    cpu_s: float = 0.0
    memory_peak_bytes: int = 0
    oom_kills: int = 0
    forks_refused: int = 0


@dataclass(slots=True)
class Group:
    """The directories of one sandbox, by controller; in version 2 they are one and the same."""

    version: int = 0
    directories: dict[str, Path] = field(default_factory=dict)
    _files: dict[str, int] = field(default_factory=dict)
    _places: list[tuple[int, str, int]] = field(default_factory=list)  # parent, name, the locked directory
    _procs: list[int] = field(default_factory=list)
    _delegated: list[int] = field(default_factory=list)  # see `enter_delegated`
    testers: list[Path] = field(default_factory=list)  # the directories of the group for testers
    is_delegated: bool = False

    def enter(self) -> None:
        """Move the calling process in. It may have become somebody else: the files know who opened them."""
        for fd in self._procs:
            os.write(fd, b"0")

    def enter_delegated(self) -> None:
        """Become a member, root of a cgroup namespace: see only what is below, and rule there.

        The caller moves on to a leaf: a group that has members may not have controllers for its children.
        """
        if not self._delegated:
            return
        own, leaf, control = self._delegated
        os.write(own, b"0")
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        os.write(leaf, b"0")
        os.write(control, b" ".join(b"+%b" % name.encode() for name in self.directories))

    @property
    def fds(self) -> list[int]:
        """The descriptors that `reading` and `remove` need."""
        return [*self._files.values(), *(fd for parent, _, own in self._places for fd in (parent, own))]

    def reading(self) -> Reading:
        """Ask the kernel what was used and refused."""
        if self.version == 2:
            return self._reading_v2()
        return Reading(
            cpu_s=int(self._text("cpuacct.usage") or 0) / 1e9,
            memory_peak_bytes=int(self._text("memory.max_usage_in_bytes") or 0),
            oom_kills=parse_flat_keyed(self._text("memory.oom_control")).get("oom_kill", 0),
            forks_refused=parse_flat_keyed(self._text("pids.events")).get("max", 0),
        )

    def _reading_v2(self) -> Reading:
        return Reading(
            cpu_s=parse_flat_keyed(self._text("cpu.stat")).get("usage_usec", 0) / 1e6,
            memory_peak_bytes=int(self._text("memory.peak") or 0),
            oom_kills=self._oom_kills_v2(),
            forks_refused=parse_flat_keyed(self._text("pids.events")).get("max", 0),
        )

    def _oom_kills_v2(self) -> int:
        """Return how often our limit took a process; those of groups that the student made are its own."""
        if not self.is_delegated:
            return parse_flat_keyed(self._text("memory.events")).get("oom_kill", 0)
        return parse_flat_keyed(self._text("memory.events.local")).get("oom", 0)

    def _text(self, name: str) -> str:
        fd = self._files.get(name)
        return "" if fd is None else os.pread(fd, 4096, 0).decode()

    def remove(self) -> None:
        """Remove the directories, also groups that were made below; their processes have been killed."""
        for parent, name, _ in self._places:
            wait_until(
                functools.partial(group_removal.is_removed, parent, name),
                timeout_s=_EMPTY_TIMEOUT_S,
                poll_s=0.0005,
                what=f"control group {name} to empty",
            )

    def close(self) -> None:
        """Close the files."""
        self.leave_procs()
        for fd in self.fds:
            os.close(fd)
        self._files, self._places = {}, []

    def leave_procs(self) -> None:
        """Close the files through which `enter` works."""
        for fds in (self._procs, self._delegated):
            while fds:
                os.close(fds.pop())


def limits_of_tester(limits: Limits) -> Limits:
    """Return what a tester may use, together with all that it starts."""
    return replace(limits, memory_bytes=_TESTER_SHARE * limits.memory_bytes)


def make(
    name: str,
    limits: Limits,
    missing: Collection[str] = (),
    *,
    is_delegated: bool = False,
    has_tester: bool = False,
) -> Group:
    """Make a group with `limits`, without the controllers of the `missing` parts.

    Args:
        name: of the directories, after `PREFIX`.
        limits: what all its processes may use together.
        missing: parts of `PARTS` to do without.
        is_delegated: give a group in it to the root of a user namespace, and have one for testers beside it.
        has_tester: have a group for testers beside this one.

    Raises:
        MissingFeature: a controller that is not missing is nowhere to be had.
        OSError: the kernel refused; nothing is left behind.
    """
    wanted = tuple(controller for controller, part in PARTS.items() if part not in missing)
    group = Group()
    if not wanted:
        return group
    try:
        unified = group_trees.unified_parent(wanted)
        if unified is not None:
            group.version = 2
            _make_unified(group, unified / (PREFIX + name), wanted, limits)
            if is_delegated:
                _delegate(group, unified / (PREFIX + name), wanted)
        else:
            if is_delegated:
                raise MissingFeature("cgroup2", "version 1 cannot delegate a group to a student who is root")
            group.version = 1
            _make_legacy(group, PREFIX + name, wanted, limits)
        if has_tester:
            _make_for_tester(group, f"{name}-tester", limits, missing)
    except BaseException:
        with contextlib.suppress(OSError, TimeoutError):
            group.remove()
        group.close()
        raise
    return group


def _make_unified(group: Group, directory: Path, wanted: Collection[str], limits: Limits) -> None:
    _add(group, directory)
    lines = {
        "memory": [("memory.max", str(limits.memory_bytes)), ("memory.swap.max", "0")],
        "pids": [("pids.max", str(limits.pids))],
        "cpu": [("cpu.max", f"{int(limits.cpus * _PERIOD_US)} {_PERIOD_US}")],
    }
    for controller in wanted:
        group.directories[controller] = directory
        for file, line in lines[controller]:
            if file != "memory.swap.max" or (directory / file).exists():  # without swap there is no file
                cgroup_tree.write(directory / file, line)
    for file in ("memory.peak", "memory.events", "memory.events.local", "cpu.stat", "pids.events"):
        _open(group, directory / file)
    group._procs.append(os.open(directory / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))


def _delegate(group: Group, directory: Path, wanted: Collection[str]) -> None:
    """Make three groups in ours: the student's, whose limits stay ours, its leaf, and the testers'.

    See: the kernel's cgroup v2 guide, "Delegation".
    """
    cgroup_tree.write(directory / "cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))
    cgroup_tree.write(directory / "cgroup.max.depth", str(_MAX_DEPTH))
    cgroup_tree.write(directory / "cgroup.max.descendants", str(_MAX_DESCENDANTS))
    own, leaf = directory / "student", directory / "student" / "notebook"
    group.is_delegated = True
    tester = directory / "tester"
    group.testers = [tester]
    for made in (own, leaf, tester):
        cgroup_tree.make(made)
    for given in (own, leaf):
        for path in (given, *(given / f"cgroup.{file}" for file in ("procs", "threads", "subtree_control"))):
            ownership.delegate(path, inside=0)
    for path in (directory / "cgroup.procs", tester / "cgroup.procs"):
        ownership.delegate(path, inside=ownership.STUDENT_IDS)  # the tester's alone
    files = (own / "cgroup.procs", leaf / "cgroup.procs", own / "cgroup.subtree_control")
    group._delegated = [os.open(file, os.O_WRONLY | os.O_CLOEXEC) for file in files]


def _make_for_tester(group: Group, name: str, limits: Limits, missing: Collection[str]) -> None:
    """Make a group of its own for testers, which `group` removes too."""
    beside = make(name, limits_of_tester(limits), missing)
    group.testers = list(dict.fromkeys(beside.directories.values()))
    group._places += beside._places
    beside._places = []
    beside.close()


def _make_legacy(group: Group, name: str, wanted: Collection[str], limits: Limits) -> None:
    lines = {
        "memory": [("memory.limit_in_bytes", str(limits.memory_bytes))],
        "pids": [("pids.max", str(limits.pids))],
        "cpu": [
            ("cpu.cfs_period_us", str(_PERIOD_US)),
            ("cpu.cfs_quota_us", str(int(limits.cpus * _PERIOD_US))),
        ],
        "cpuacct": [],
    }
    made: set[Path] = set()
    for controller in (*wanted, *(["cpuacct"] if "cpu" in wanted else [])):
        directory = group.directories[controller] = group_trees.legacy_parent(controller) / name
        if directory not in made:  # one tree may have several controllers
            _add(group, directory)
            group._procs.append(os.open(directory / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        made.add(directory)
        for file, line in lines[controller]:
            cgroup_tree.write(directory / file, line)
        if controller == "memory" and (swap := directory / "memory.memsw.limit_in_bytes").exists():
            cgroup_tree.write(swap, str(limits.memory_bytes))
        for file in ("memory.max_usage_in_bytes", "memory.oom_control", "cpuacct.usage", "pids.events"):
            if file.startswith(f"{controller}."):
                _open(group, directory / file)


def _add(group: Group, directory: Path) -> None:
    """Make the directory and lock it."""
    with group_removal.making_in(directory.parent):
        cgroup_tree.make(directory)
        parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        own = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        group._places.append((parent, directory.name, own))
        with contextlib.suppress(BlockingIOError):  # a stranger's lock tells `remove_stale` the same
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _open(group: Group, file: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # memory.peak came with Linux 5.19
        group._files[file.name] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
