"""Names and bits of capabilities, without the rest of `capabilities`: the container runtime starts with this.

See: capabilities(7).
"""

from __future__ import annotations

from cnlab.errors import InvalidValue

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
