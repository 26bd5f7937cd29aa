"""What a namespace is called: the links of ``/proc/PID/ns`` and the flags that make new ones.

See: namespaces(7), "The /proc/pid/ns/ directory".
"""

import errno
import os
import re
from dataclasses import dataclass

from cnlab.errors import InvalidValue
from cnlab.linux import syscalls

FLAGS = {
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "ipc": syscalls.CLONE_NEWIPC,
    "mnt": syscalls.CLONE_NEWNS,
    "net": syscalls.CLONE_NEWNET,
    "pid": syscalls.CLONE_NEWPID,
    "time": syscalls.CLONE_NEWTIME,
    "user": syscalls.CLONE_NEWUSER,
    "uts": syscalls.CLONE_NEWUTS,
}
KINDS = tuple(FLAGS)


@dataclass(frozen=True, slots=True, order=True)
class Namespace:
    """One namespace, by the only name it has: its kind and the inode that all its members' links show."""

    kind: str
    inode: int

    def __str__(self) -> str:
        return f"{self.kind}:[{self.inode}]"


def parse_namespace(link: str) -> Namespace:
    """Read the target of a link in ``/proc/PID/ns``, such as ``uts:[4026531838]``."""
    match = re.fullmatch(r"(\w+):\[(\d+)\]", link)
    if match is None:
        raise InvalidValue(f"{link!r} does not name a namespace; expected something like 'uts:[4026531838]'")
    return Namespace(match[1], int(match[2]))


def namespaces_of(pid: int | str = "self") -> dict[str, Namespace]:
    """Return the namespaces that process `pid` is in, by kind.

    Kinds that the kernel lacks are not there. A zombie has let go of all but the user and pid namespace.

    Raises:
        ProcessLookupError: there is no such process.
        PermissionError: the process belongs to somebody else.
    """
    found = {}
    for kind in KINDS:
        try:
            found[kind] = parse_namespace(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except FileNotFoundError:
            continue
    if not found:
        raise ProcessLookupError(
            errno.ESRCH, f"readlink(/proc/{pid}/ns): no process {pid}; it may have ended"
        )
    return found


def flags_for(*kinds: str) -> int:
    """Return the ``CLONE_NEW…`` flags that make new namespaces of these kinds."""
    flags = 0
    for kind in kinds:
        if kind not in FLAGS:
            raise InvalidValue(f"unknown namespace {kind!r}; the kinds are {', '.join(KINDS)}")
        flags |= FLAGS[kind]
    return flags
