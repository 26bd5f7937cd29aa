"""Control groups, version 2: a tree of directories that says how much its processes may use.

Interface: ``with Cgroup("demo", memory_max="64M") as group: group.run([…])``. The group is made with the
block and removed with it, together with all that runs in it.

A limit is only ever written where it limits something: not into a tmpfs that happens to stand at
``/sys/fs/cgroup``, and not for a controller that is bound to version 1 on this host.

See: cgroups(7), and the kernel's cgroup v2 guide, whose file names are the names here.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.linux import cgroup_tree, children, namespaces
from cnlab.linux.cgroup_files import (
    CgroupEvents,
    CpuMax,
    CpuMaxLike,
    CpuStat,
    Limits,
    MemoryEvents,
    PidsEvents,
    Size,
    parse_cpu_max,
    parse_flat_keyed,
    parse_nested_keyed,
    parse_size,
)
from cnlab.linux.cgroup_tree import CONTROLLERS, cgroup_of, controllers, root_of_cgroup2
from cnlab.linux.children import Child
from cnlab.linux.newborn import Program
from cnlab.linux.processes import Process, read_process

__all__ = [
    "CONTROLLERS",
    "Cgroup",
    "CgroupEvents",
    "CpuMax",
    "CpuStat",
    "Limits",
    "MemoryEvents",
    "PidsEvents",
    "cgroup_of",
    "controllers",
    "parse_cpu_max",
    "parse_flat_keyed",
    "parse_nested_keyed",
    "parse_size",
    "root_of_cgroup2",
]

_KILL_TIMEOUT_S = 10.0


class Cgroup:
    """A group of processes with limits; made and unmade by its ``with`` block.

    Args:
        name: of the directory.
        parent: group to make it in, by default the root of the tree. Its controllers are enabled for all
            its children (``cgroup.subtree_control``) and stay so.
        cpu_max: (quota_us, period_us), a `CpuMax`, or text as in the file.
        cpu_weight: 1 to 10000, by default 100: the share when others want the CPU too.
        memory_max: bytes or text like ``"64M"``; beyond it the OOM killer comes.
        memory_high: beyond it the group is slowed down and its memory reclaimed.
        memory_low: up to it the group's memory is spared when others' is reclaimed.
        memory_swap_max: bytes of swap.
        pids_max: processes and threads.
        io_max: device to limits, such as ``{"8:0": {"wbps": 1_000_000}}``.
        oom_group: let the OOM killer take the whole group.

    Raises:
        InvalidValue: a name or limit that no kernel takes; raised before anything is made.
        MissingFeature: on entering, a limit whose controller the parent does not offer.
    """

    def __init__(
        self,
        name: str,
        *,
        parent: "Cgroup | Path | None" = None,
        cpu_max: CpuMaxLike | None = None,
        cpu_weight: int | None = None,
        memory_max: Size | None = None,
        memory_high: Size | None = None,
        memory_low: Size | None = None,
        memory_swap_max: Size | None = None,
        pids_max: int | str | None = None,
        io_max: Mapping[str, Mapping[str, int | str]] | None = None,
        oom_group: bool | None = None,
    ) -> None:
        if name in ("", ".", "..") or "/" in name or "\n" in name:
            raise InvalidValue(f"{name!r} is no name for a cgroup; expected a directory name like 'demo'")
        self.name = name
        self._lines = Limits(
            cpu_max=cpu_max,
            cpu_weight=cpu_weight,
            memory_max=memory_max,
            memory_high=memory_high,
            memory_low=memory_low,
            memory_swap_max=memory_swap_max,
            pids_max=pids_max,
            io_max=io_max,
            oom_group=oom_group,
        ).lines()
        self._parent = parent.path if isinstance(parent, Cgroup) else parent or root_of_cgroup2()
        self._origin: Path | None = None

    def __repr__(self) -> str:
        return f"<Cgroup {self.path}>"

    @property
    def path(self) -> Path:
        """Its directory."""
        return self._parent / self.name

    def __enter__(self) -> Self:
        cgroup_tree.require_controllers(self._parent, (file for file, _ in self._lines))
        cgroup_tree.enable_controllers(self._parent)
        cgroup_tree.make(self.path)
        self._origin = cgroup_of()
        try:
            self._write_all(self._lines)
        except BaseException:
            self.path.rmdir()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.path.exists():
            return
        self._step_out()
        self.kill()
        for directory, _, _ in os.walk(self.path, topdown=False):
            os.rmdir(directory)

    def _step_out(self) -> None:
        """Take the caller out of the group, lest it kill itself: the famous snippet writes ``$$`` there."""
        if self._origin is not None and self.path in (here := cgroup_of(), *here.parents):
            cgroup_tree.write(self._origin / "cgroup.procs", str(os.getpid()))

    def _write_all(self, lines: Iterable[tuple[str, str]]) -> None:
        for file, line in lines:
            cgroup_tree.write(self.path / file, line)

    @property
    def controllers(self) -> tuple[str, ...]:
        """The controllers that act on it."""
        return controllers(self.path)

    def set(
        self,
        *,
        cpu_max: CpuMaxLike | None = None,
        cpu_weight: int | None = None,
        memory_max: Size | None = None,
        memory_high: Size | None = None,
        memory_low: Size | None = None,
        memory_swap_max: Size | None = None,
        pids_max: int | str | None = None,
        io_max: Mapping[str, Mapping[str, int | str]] | None = None,
        oom_group: bool | None = None,
    ) -> None:
        """Change limits while the group runs; ``"max"`` takes one away, what is left out stays."""
        lines = Limits(
            cpu_max=cpu_max,
            cpu_weight=cpu_weight,
            memory_max=memory_max,
            memory_high=memory_high,
            memory_low=memory_low,
            memory_swap_max=memory_swap_max,
            pids_max=pids_max,
            io_max=io_max,
            oom_group=oom_group,
        ).lines()
        cgroup_tree.require_controllers(self.path, (file for file, _ in lines))
        self._write_all(lines)

    def read(self, file: str) -> str:
        """Return the text of one of its files, such as ``cpu.stat``.

        Raises:
            MissingFeature: the file belongs to a controller that does not act on this group.
        """
        try:
            return (self.path / file).read_text()
        except OSError as error:
            if self.path.exists():
                cgroup_tree.require_controllers(self.path, [file])
            raise cgroup_tree.described(error, f"read({self.path / file})") from None

    @property
    def cpu_max(self) -> CpuMax:
        """The limit as it stands."""
        return parse_cpu_max(self.read("cpu.max"))

    def cpu_stat(self) -> CpuStat:
        """Return what it has used, and how often it was throttled."""
        return CpuStat.parse(self.read("cpu.stat"))

    @property
    def memory_max_bytes(self) -> int | None:
        """The limit as it stands; None without one."""
        return parse_size(self.read("memory.max").strip())

    @property
    def memory_current_bytes(self) -> int:
        """What it uses now, page cache included."""
        return int(self.read("memory.current"))

    @property
    def memory_peak_bytes(self) -> int:
        """The most it has used; since Linux 5.19."""
        return int(self.read("memory.peak"))

    def memory_stat(self) -> dict[str, int]:
        """Return what its memory is used for: ``anon``, ``file`` and so on, in bytes."""
        return parse_flat_keyed(self.read("memory.stat"))

    def memory_events(self) -> MemoryEvents:
        """Return how often it met its limits."""
        return MemoryEvents.parse(self.read("memory.events"))

    @property
    def pids_current(self) -> int:
        """How many processes and threads it has."""
        return int(self.read("pids.current"))

    def pids_events(self) -> PidsEvents:
        """Return how many forks were refused."""
        return PidsEvents.parse(self.read("pids.events"))

    def io_stat(self) -> dict[str, dict[str, int | None]]:
        """Return bytes and operations by device."""
        return parse_nested_keyed(self.read("io.stat"))

    def events(self) -> CgroupEvents:
        """Return whether somebody is in it, and whether it is frozen."""
        return CgroupEvents.parse(self.read("cgroup.events"))

    def add(self, pid: int) -> None:
        """Move a process into the group; its children to come will be in it too.

        Raises:
            ProcessLookupError: there is no such process.
        """
        cgroup_tree.write(self.path / "cgroup.procs", str(pid))

    def pids(self) -> list[int]:
        """Return the numbers of its processes, without those of groups below."""
        return sorted(map(int, self.read("cgroup.procs").split()))

    def processes(self) -> list[Process]:
        """Return its processes, without those that end meanwhile."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                found.append(read_process(pid))
        return found

    def spawn(
        self,
        program: Program,
        *,
        new: Iterable[str] = (),
        hostname: str | None = None,
        mount_proc: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        capture: bool = False,
    ) -> contextlib.AbstractContextManager[Child]:
        """Start a program that is born in the group (``CLONE_INTO_CGROUP``); see `namespaces.spawn`."""
        return namespaces.spawn(
            program,
            new=new,
            hostname=hostname,
            mount_proc=mount_proc,
            env=env,
            cwd=cwd,
            capture=capture,
            cgroup=self.path,
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        new: Iterable[str] = (),
        hostname: str | None = None,
        mount_proc: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        check: bool = False,
        timeout_s: float = 30,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in the group; options as in `namespaces.run`."""
        with self.spawn(
            argv, new=new, hostname=hostname, mount_proc=mount_proc, env=env, cwd=cwd, capture=True
        ) as child:
            return children.complete(child, argv, timeout_s=timeout_s, check=check)

    def freeze(self) -> None:
        """Stop all that runs in it, and return when it has stopped."""
        cgroup_tree.write(self.path / "cgroup.freeze", "1")
        wait_until(lambda: self.events().frozen, timeout_s=_KILL_TIMEOUT_S, what=f"{self.path} to freeze")

    def thaw(self) -> None:
        """Let it run again."""
        cgroup_tree.write(self.path / "cgroup.freeze", "0")

    def kill(self) -> None:
        """Kill all that runs in it and below, frozen or not, and return when nobody is left.

        See: ``cgroup.kill``, since Linux 5.14.
        """
        cgroup_tree.write(self.path / "cgroup.kill", "1")
        wait_until(
            lambda: not self.events().populated, timeout_s=_KILL_TIMEOUT_S, what=f"{self.path} to empty"
        )
