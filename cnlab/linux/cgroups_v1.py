"""Control groups, version 1: one tree for each controller, to compare, and for hosts that have no other.

A group is a directory of the same name in several trees; files have other names (see `TRANSLATION`); there
is no ``cgroup.kill``, no birth inside a group, and no rule against processes in inner nodes.

See: cgroups(7), "CGROUPS VERSION 1".
"""

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.linux import children
from cnlab.linux.cgroup_files import CpuMaxLike, Limits, Size, parse_cpu_max, parse_flat_keyed
from cnlab.linux.children import Child
from cnlab.linux.mounts import Mount, read_mountinfo
from cnlab.linux.newborn import Program

TRANSLATION: dict[str, tuple[str, ...]] = {
    "cpu.max": ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"),
    "cpu.weight": ("cpu/cpu.shares",),
    "cpu.stat": ("cpu/cpu.stat", "cpuacct/cpuacct.usage"),
    "memory.max": ("memory/memory.limit_in_bytes",),
    "memory.high": (),
    "memory.low": ("memory/memory.soft_limit_in_bytes",),
    "memory.current": ("memory/memory.usage_in_bytes",),
    "memory.peak": ("memory/memory.max_usage_in_bytes",),
    "memory.events": ("memory/memory.oom_control", "memory/memory.failcnt"),
    "memory.oom.group": (),
    "pids.max": ("pids/pids.max",),
    "pids.current": ("pids/pids.current",),
    "io.max": ("blkio/blkio.throttle.read_bps_device", "blkio/blkio.throttle.write_bps_device"),
    "io.stat": ("blkio/blkio.throttle.io_service_bytes",),
    "cgroup.freeze": ("freezer/freezer.state",),
    "cgroup.kill": (),
    "cgroup.subtree_control": (),
}
"""For each file of version 2 the files of version 1 that come closest, if any do."""


def parse_membership(text: str) -> dict[str, str]:
    """Read ``/proc/PID/cgroup``: controller to path; the version 2 tree is the controller ``""``."""
    found = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        found.update(dict.fromkeys(names.split(","), path))
    return found


def hierarchies(mounts: Iterable[Mount]) -> dict[str, Mount]:
    """Return the mount of each version 1 controller, from a mount table."""
    found = {}
    for mount in mounts:
        if mount.fs_type == "cgroup":
            options = (option for option in mount.super_options if option not in ("rw", "ro", "xattr"))
            found.update({name: mount for name in options if "=" not in name})
    return found


def own_group(controller: str) -> Path:
    """Return the directory of the caller's group in the tree of `controller`.

    Raises:
        MissingFeature: no version 1 tree has that controller.
    """
    mount = hierarchies(read_mountinfo()).get(controller)
    if mount is None:
        raise MissingFeature("cgroup1", f"no version 1 tree with controller {controller!r} is mounted")
    path = parse_membership(Path("/proc/self/cgroup").read_text())[controller]
    return Path(mount.mount_point) / os.path.relpath(path, mount.root)


class CgroupV1:
    """A group in the version 1 trees of the controllers that its limits need, below the caller's groups.

    Args:
        name: of the directories.
        cpu_max: as for `cgroups.Cgroup`; likewise the others.
        memory_max: bytes or text like ``"64M"``.
        pids_max: processes and threads.
        also: controllers in whose trees the group is to be too, without a limit.
    """

    def __init__(
        self,
        name: str,
        *,
        cpu_max: CpuMaxLike | None = None,
        memory_max: Size | None = None,
        pids_max: int | str | None = None,
        also: Iterable[str] = (),
    ) -> None:
        if name in ("", ".", "..") or "/" in name:
            raise InvalidValue(f"{name!r} is no name for a cgroup; expected a directory name like 'demo'")
        lines = Limits(cpu_max=cpu_max, memory_max=memory_max, pids_max=pids_max).lines()
        self.name = name
        self._lines = [line for pair in lines for line in translate(*pair)]
        used = dict.fromkeys([*(file.partition(".")[0] for file, _ in self._lines), *also])
        self.paths: Mapping[str, Path] = {used_name: own_group(used_name) / name for used_name in used}
        if not used:
            raise InvalidValue("a version 1 group needs a limit: its controllers are separate trees")

    def __enter__(self) -> Self:
        made: list[Path] = []
        try:
            for path in dict.fromkeys(self.paths.values()):  # one tree may have several controllers
                path.mkdir()
                made.append(path)
            for file, line in self._lines:
                self._path_of(file).write_text(line)
        except BaseException:
            for path in made:
                path.rmdir()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wait_until(lambda: not self._kill(), timeout_s=10, what=f"version 1 group {self.name} to empty")
        for path in self.paths.values():
            wait_until(lambda path=path: _removed(path), timeout_s=10, what=f"{path} to be free")  # type: ignore[misc]

    def _path_of(self, file: str) -> Path:
        controller = file.partition(".")[0]
        if controller not in self.paths:
            raise InvalidValue(f"{file!r}: this group is in the trees of {', '.join(self.paths)} only")
        return self.paths[controller] / file

    def _kill(self) -> list[int]:
        """Kill one by one whom we find, groups below too; those forked meanwhile are found the next time."""
        pids = self._pids_below()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def read(self, file: str) -> str:
        """Return the text of one of its files, such as ``memory.usage_in_bytes``."""
        return self._path_of(file).read_text()

    def stat(self, file: str) -> dict[str, int]:
        """Return a file of keys and numbers, such as ``cpu.stat``."""
        return parse_flat_keyed(self.read(file))

    def pids(self) -> list[int]:
        """Return the numbers of its processes."""
        texts = ((path / "cgroup.procs").read_text() for path in self.paths.values() if path.exists())
        return sorted({int(pid) for text in texts for pid in text.split()})

    def _pids_below(self) -> list[int]:
        found: set[int] = set()
        for directory, _, _ in (place for path in self.paths.values() for place in os.walk(path)):
            with contextlib.suppress(FileNotFoundError):  # a group below has gone meanwhile
                found.update(map(int, Path(directory, "cgroup.procs").read_text().split()))
        return sorted(found)

    def add(self, pid: int) -> None:
        """Move a process into the group, tree by tree."""
        for path in self.paths.values():
            (path / "cgroup.procs").write_text(str(pid))

    def spawn(self, program: Program, *, capture: bool = False) -> contextlib.AbstractContextManager[Child]:
        """Start a program that is moved into the group before it begins."""
        return children.start(program, in_parent=self.add, capture=capture)

    def run(
        self, argv: Sequence[str], *, check: bool = False, timeout_s: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in the group."""
        with self.spawn(argv, capture=True) as child:
            return children.complete(child, argv, timeout_s=timeout_s, check=check)


def translate(file: str, line: str) -> list[tuple[str, str]]:
    """Return what to write in version 1 for a line that goes into a version 2 file."""
    match file:
        case "cpu.max":
            limit = parse_cpu_max(line)
            quota = -1 if limit.quota_us is None else limit.quota_us
            return [("cpu.cfs_period_us", str(limit.period_us)), ("cpu.cfs_quota_us", str(quota))]
        case "memory.max":
            return [("memory.limit_in_bytes", "-1" if line == "max" else line)]
        case "pids.max":
            return [(file, line)]
    raise InvalidValue(
        f"{file!r} has no translation to version 1 here; those are cpu.max, memory.max and pids.max"
    )


def _removed(path: Path) -> bool:
    try:
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)
    except FileNotFoundError:
        return not path.exists()
    except OSError as error:
        if error.errno != errno.EBUSY:  # a process that has ended stays a member until it is reaped
            raise
        return False
    return True
