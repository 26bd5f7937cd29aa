"""Capabilities: what used to be root's power, in some forty pieces.

See: capabilities(7).
"""

from dataclasses import dataclass

from cnlab.linux import procfs, syscalls
from cnlab.linux.capability_names import NAMES, mask_of, names_in
from cnlab.linux.processes import parse_status

__all__ = ["NAMES", "CapabilitySets", "drop", "drop_bounding", "has", "mask_of", "names_in", "of"]


@dataclass(frozen=True, slots=True)
class CapabilitySets:
    """The five sets of a thread, as names."""

    effective: frozenset[str]  # what the kernel checks
    permitted: frozenset[str]  # what it may make effective
    inheritable: frozenset[str]
    bounding: frozenset[str]  # what execve(2) can ever give it
    ambient: frozenset[str]  # what a program without file capabilities keeps


def of(pid: int | str = "self") -> CapabilitySets:
    """Return the capabilities of process `pid`.

    Raises:
        ProcessLookupError: there is no such process.
    """
    status = parse_status(procfs.read(pid, "status"))
    fields = ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")
    return CapabilitySets(*(names_in(int(status[name], 16)) for name in fields))


def has(name: str, pid: int | str = "self") -> bool:
    """Whether capability `name` is in the effective set of `pid`."""
    mask_of(name)
    return name in of(pid).effective


def drop_bounding(*names: str) -> None:
    """Take capabilities out of the caller's bounding set, for it and all its descendants to come.

    What it holds already stays until its next execve(2); see `drop`.
    """
    mask_of(*names)
    for name in names:
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, NAMES.index(name))


def drop(*names: str) -> None:
    """Take capabilities out of the caller's effective, permitted, inheritable and (by that) ambient sets."""
    keep = ~mask_of(*names)
    effective, permitted, inheritable = syscalls.capget()
    syscalls.capset(effective & keep, permitted & keep, inheritable & keep)
