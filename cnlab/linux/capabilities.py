"""Capabilities: what used to be root's power, in some forty pieces.

See: capabilities(7).
"""

from dataclasses import dataclass

from cnlab.errors import InvalidValue
from cnlab.linux import procfs, syscalls
from cnlab.linux.processes import parse_status

NAMES = tuple(
    "CAP_" + name
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
        *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
        *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
        *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
        *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
        *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
    )
)


@dataclass(frozen=True, slots=True)
class CapabilitySets:
    """The five sets of a thread, as names."""

    effective: frozenset[str]  # what the kernel checks
    permitted: frozenset[str]  # what it may make effective
    inheritable: frozenset[str]
    bounding: frozenset[str]  # what execve(2) can ever give it
    ambient: frozenset[str]  # what a program without file capabilities keeps


def names_in(mask: int) -> frozenset[str]:
    """Return the names of the bits in `mask`; one newer than `NAMES` is called ``CAP_41``."""
    bits = (bit for bit in range(mask.bit_length()) if mask >> bit & 1)
    return frozenset(NAMES[bit] if bit < len(NAMES) else f"CAP_{bit}" for bit in bits)


def mask_of(*names: str) -> int:
    """Return the bit mask of the capabilities named."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise InvalidValue(
            f"unknown capability {unknown[0]!r}; see capabilities(7) for names like CAP_SYS_ADMIN"
        )
    return sum(1 << NAMES.index(name) for name in set(names))


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
