"""Processes as `/proc` shows them.

See: proc_pid_stat(5), proc_pid_status(5).
"""

import os
from dataclasses import dataclass, field

from cnlab.linux import procfs
from cnlab.linux.nsfs import Namespace, namespaces_of

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """What the kernel tells of one process, at one moment."""

    pid: int
    ppid: int  # 0: its parent is outside of this pid namespace
    name: str
    state: str  # one letter: R running, S sleeping, D waiting for a device, T stopped, Z zombie
    uid: int
    gid: int
    nspids: tuple[int, ...]  # its number in each pid namespace from ours down to its own
    cgroup: str  # path in the cgroup v2 tree
    cmdline: tuple[str, ...]
    start_time_s: float  # since boot
    rss_bytes: int
    namespaces: dict[str, Namespace] = field(hash=False)  # empty where we may not look

    @property
    def is_zombie(self) -> bool:
        """Whether it has ended and its parent has not asked for the exit code yet."""
        return self.state == "Z"

    @property
    def is_init(self) -> bool:
        """Whether it is process 1 of its pid namespace."""
        return self.nspids[-1] == 1


def parse_stat(text: str) -> tuple[str, list[str]]:
    """Split the text of ``/proc/PID/stat`` into the name and the fields after it, which begin with the state.

    The name stands in parentheses and may itself contain blanks and parentheses.
    """
    before, _, after = text.rpartition(")")
    return before.partition("(")[2], after.split()


def parse_status(text: str) -> dict[str, str]:
    """Read the ``Key:<tab>value`` lines of ``/proc/PID/status``."""
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def read_process(pid: int | str = "self") -> Process:
    """Return what `/proc` shows of `pid`.

    Raises:
        ProcessLookupError: there is no such process (any more).
    """
    name, stat = parse_stat(procfs.read(pid, "stat"))
    status = parse_status(procfs.read(pid, "status"))
    cgroups = procfs.read(pid, "cgroup").splitlines()
    cmdline = procfs.read(pid, "cmdline")
    return Process(
        pid=int(status["Pid"]),
        ppid=int(stat[1]),
        name=name,
        state=stat[0],
        uid=int(status["Uid"].split()[1]),
        gid=int(status["Gid"].split()[1]),
        nspids=tuple(map(int, status.get("NSpid", status["Pid"]).split())),
        cgroup=next((line[3:] for line in cgroups if line.startswith("0::")), ""),
        cmdline=tuple(cmdline.split("\0")[:-1]),
        start_time_s=int(stat[19]) / _TICKS_PER_SECOND,
        rss_bytes=int(status.get("VmRSS", "0").split()[0]) * 1024,
        namespaces=_namespaces_if_visible(pid),
    )


def _namespaces_if_visible(pid: int | str) -> dict[str, Namespace]:
    try:
        return namespaces_of(pid)
    except (PermissionError, ProcessLookupError):
        return {}


def processes() -> list[Process]:
    """Return all processes of this pid namespace, by number; those that end meanwhile are left out."""
    found = []
    for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        try:
            found.append(read_process(pid))
        except ProcessLookupError:
            continue
    return found
