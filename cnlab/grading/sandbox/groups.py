"""The control groups of one sandbox: what it may use together, and what it has used.

Interface: ``group = make(name, limits, accepted)``; `Group.enter` moves the caller in; `Group.reading` says
what was used and how often a limit was met; `Group.remove` removes the directories, once nobody is in.

A group is one directory in the version 2 tree, or one in each of three version 1 trees. Its files are opened
once, by its maker: a process that has left for another root or user can still read them. The maker locks
each directory (flock(2)) for as long as it lives, so that `remove_stale` knows one whose maker was killed.

See: cgroups(7).
"""

import contextlib
import errno
import fcntl
import functools
import os
import signal
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from cnlab.clock import wait_until
from cnlab.errors import MissingFeature
from cnlab.grading.limits import Limits
from cnlab.grading.sandbox import ownership
from cnlab.linux import cgroup_tree, cgroups_v1, syscalls
from cnlab.linux.cgroup_files import parse_flat_keyed

PREFIX = "cnlab-sandbox-"
PARTS = {"memory": "cgroup-memory", "pids": "cgroup-pids", "cpu": "cgroup-cpu"}
_EMPTY_TIMEOUT_S = 10.0
_PERIOD_US = 100_000


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
    _delegated: list[int] = field(
        default_factory=list
    )  # cgroup.procs of it and its leaf, and its controllers
    tester: Path | None = None  # the group for testers, where there is a delegated one beside it

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
        if self.tester is None:
            return parse_flat_keyed(self._text("memory.events")).get("oom_kill", 0)
        return parse_flat_keyed(self._text("memory.events.local")).get("oom", 0)

    def _text(self, name: str) -> str:
        fd = self._files.get(name)
        return "" if fd is None else os.pread(fd, 4096, 0).decode()

    def remove(self) -> None:
        """Remove the directories, also groups that were made below; their processes have been killed."""
        for parent, name, _ in self._places:
            wait_until(
                lambda parent=parent, name=name: _removed(parent, name),  # type: ignore[misc]
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


def make(
    name: str,
    limits: Limits,
    missing: Collection[str] = (),
    *,
    parent: Path | None = None,
    is_delegated: bool = False,
) -> Group:
    """Make a group with `limits`, without the controllers of the `missing` parts.

    Args:
        name: of the directories, after `PREFIX`.
        limits: what all its processes may use together.
        missing: parts of `PARTS` to do without.
        parent: version 2 group to make it in, by default one that we may make groups in.
        is_delegated: give a group in it to the root of a user namespace, and have one for testers beside it.

    Raises:
        MissingFeature: a controller that is not missing is nowhere to be had.
        OSError: the kernel refused; nothing is left behind.
    """
    wanted = tuple(controller for controller, part in PARTS.items() if part not in missing)
    group = Group()
    if not wanted:
        return group
    try:
        unified = parent or _unified_parent(wanted)
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
    own, leaf = directory / "student", directory / "student" / "notebook"
    group.tester = directory / "tester"
    for made in (own, leaf, group.tester):
        cgroup_tree.make(made)
    for given in (own, leaf):
        for path in (given, *(given / f"cgroup.{file}" for file in ("procs", "threads", "subtree_control"))):
            ownership.delegate(path, inside=0)
    for path in (directory / "cgroup.procs", group.tester / "cgroup.procs"):
        ownership.delegate(path, inside=ownership.STUDENT_IDS)  # the tester's alone
    files = (own / "cgroup.procs", leaf / "cgroup.procs", own / "cgroup.subtree_control")
    group._delegated = [os.open(file, os.O_WRONLY | os.O_CLOEXEC) for file in files]


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
        directory = group.directories[controller] = _legacy_parent(controller) / name
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
    cgroup_tree.make(directory)
    parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    own = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    group._places.append((parent, directory.name, own))
    fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _open(group: Group, file: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # memory.peak came with Linux 5.19
        group._files[file.name] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)


@functools.cache
def _legacy_parent(controller: str) -> Path:
    return cgroups_v1.own_group(controller)


@functools.cache
def _unified_parent(wanted: tuple[str, ...]) -> Path | None:
    """Return the version 2 group to make ours in; None where version 1 has the controllers.

    Root takes the root of the tree. Others need a group that was delegated to them.
    """
    try:
        root = cgroup_tree.root_of_cgroup2()
    except MissingFeature:
        return None
    if not set(wanted) <= set(cgroup_tree.controllers(root)):
        return None
    if os.access(root / "cgroup.subtree_control", os.W_OK):
        parent = root
    else:
        own = cgroup_tree.cgroup_of()
        above = [own, *own.parents]
        candidates = [path for path in above[: above.index(root)] if _is_ours(path)]
        if not candidates:
            raise MissingFeature(
                "cgroup2",
                f"{own} is not delegated to user id {os.geteuid()}",
                hint="start it by `systemd-run --user --scope -p Delegate=yes`, or as root",
            )
        parent = candidates[-1]
        if (parent / "cgroup.procs").read_text():
            _move_down(parent)
    cgroup_tree.enable_controllers(parent)
    cgroup_tree.require_controllers(parent, (f"{controller}." for controller in wanted))
    return parent


def _is_ours(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path / "cgroup.subtree_control", os.W_OK)


def _move_down(parent: Path) -> None:
    """Move the processes of a delegated group into a leaf: only then may its children have controllers."""
    leaf = parent / "cnlab-grader"
    leaf.mkdir(exist_ok=True)
    for pid in (parent / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            cgroup_tree.write(leaf / "cgroup.procs", pid)


def _removed(parent: int, name: str) -> bool:
    try:
        _remove_below(parent, name)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):  # a zombie stays a member until it is reaped
            raise
        return False
    return True


def _remove_below(parent: int, name: str) -> None:
    """Remove a group and those below it, which its processes may have made; by descriptors, however deep."""
    with contextlib.suppress(OSError):
        return os.rmdir(name, dir_fd=parent)
    own = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
    try:
        for entry in os.scandir(own):
            if entry.is_dir(follow_symlinks=False):
                _remove_below(own, entry.name)
    finally:
        os.close(own)
    os.rmdir(name, dir_fd=parent)


def remove_stale() -> list[str]:
    """Remove groups whose maker was killed before it could: nobody holds their lock. Return their names."""
    found = []
    for parent in _parents():
        for directory in parent.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if _is_abandoned(directory):
                    _kill(directory)
                    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    try:
                        wait_until(lambda: _removed(parent_fd, directory.name), timeout_s=2)  # noqa: B023
                    finally:
                        os.close(parent_fd)
                    found.append(directory.name)
    return found


def _parents() -> list[Path]:
    """Return the groups in which `make` may have made some."""
    found: list[Path] = []
    with contextlib.suppress(MissingFeature, OSError):
        root = cgroup_tree.root_of_cgroup2()
        own = cgroup_tree.cgroup_of()
        found += [root, own, *(path for path in own.parents if path.is_relative_to(root))]
    for controller in (*PARTS, "cpuacct"):
        with contextlib.suppress(MissingFeature, OSError):
            found.append(_legacy_parent(controller))
    return list(dict.fromkeys(found))


def _is_abandoned(directory: Path) -> bool:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _kill(directory: Path) -> None:
    for pid in (directory / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
