"""What a sandbox's first process watches: has a limit been met, is the time up, what was refused.

Deciding is pure: `Watch.look` compares what is counted now with what was counted before.
"""

import os
import resource
from collections import Counter
from dataclasses import dataclass, field

from cnlab.grading.limits import MIB, Event, Limits
from cnlab.grading.sandbox.groups import Reading
from cnlab.linux.processes import parse_stat

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Watch:
    """What has been told already."""

    limits: Limits
    last: Reading = field(default_factory=Reading)
    peak_bytes: int = 0
    next_look: float = 0.0  # by the monotonic clock
    told: set[str] = field(default_factory=set)
    is_over: bool = False  # and stays so: what is born in the last moment has to end too

    def look(self, now: Reading, *, wall_s: float, disk_left: float = 1.0) -> list[Event]:
        """Return what is new; `is_over` then says whether the sandbox has to end.

        Args:
            now: what is used and refused, in all.
            wall_s: since the student's process began.
            disk_left: the free part of what can be written: bytes or files, whichever is scarcer.
        """
        events = []
        if (count := now.oom_kills - self.last.oom_kills) > 0:
            text = f"out of memory at {self.limits.memory_bytes // MIB} MiB: {count} of its processes killed"
            events.append(Event("memory", text))
        if (count := now.forks_refused - self.last.forks_refused) > 0 and self._first("pids"):
            events.append(Event("pids", f"no more than {self.limits.pids} processes and threads"))
        if disk_left <= 0 and self._first("disk"):
            text = f"{self.limits.tmp_bytes // MIB} MiB or {self.limits.tmp_files} files are full"
            events.append(Event("disk", text))
        if now.memory_peak_bytes > self.limits.memory_bytes and self._first("memory"):
            events.append(Event("memory", f"ended at more than {self.limits.memory_bytes // MIB} MiB"))
            self.is_over = True
        if now.cpu_s > self.limits.cpu_s and self._first("cpu"):
            events.append(Event("cpu", f"ended after {self.limits.cpu_s:g} s of processor time"))
            self.is_over = True
        if wall_s > self.limits.notebook_s and self._first("time"):
            events.append(Event("time", f"ended after {self.limits.notebook_s:g} s"))
            self.is_over = True
        self.last = now
        self.peak_bytes = max(self.peak_bytes, now.memory_peak_bytes)
        return events

    def _first(self, kind: str) -> bool:
        is_first = kind not in self.told
        self.told.add(kind)
        return is_first


class Refusals:
    """Counts refused calls, and tells of each name the first time, the tenth, the hundredth, and so on."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> Event | None:
        """Count one; return what to tell of it, if anything."""
        self._counts[name] += 1
        count = self._counts[name]
        if str(count).strip("0") != "1":
            return None
        return Event("seccomp", f"{name}: refused" + ("" if count == 1 else f", {count} times by now"))


def count_processes(proc: int) -> Reading:
    """Add up what the processes of our pid namespace use, where no control group does it.

    Args:
        proc: a directory of ``/proc``; the caller is process 1 there.
    """
    cpu_s = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    memory = 0
    for pid in (name for name in os.listdir(proc) if name.isdigit() and name != "1"):
        try:
            stat = parse_stat(_read(proc, f"{pid}/stat"))[1]
            cpu_s += sum(map(int, stat[11:15])) / _TICKS_PER_SECOND
            memory += _proportional_bytes(_read(proc, f"{pid}/smaps_rollup"))
        except OSError:
            continue  # it has ended
    return Reading(cpu_s=cpu_s, memory_peak_bytes=memory)


def _read(directory: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(fd, 1 << 14).decode(errors="replace")
    finally:
        os.close(fd)


def _proportional_bytes(smaps: str) -> int:
    """Return what a process uses, pages that it shares counted in parts."""
    lines = (line.split() for line in smaps.splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "Pss:"), 0)
