"""Who the processes of a sandbox are: the ids of its user namespaces.

See: user_namespaces(7), "User and group ID mappings".
"""

import os
from pathlib import Path

from cnlab.linux.idmaps import IdMap, read_uid_map, write_gid_map, write_uid_map

_FIRST_ID, _IDS, _RANGES = 0x7000_0000, 0x1_0000, 0x4000  # above what people and container engines use

TESTER_IDS = 1_000_000
STUDENT_IDS = TESTER_IDS - 1
"""How many ids, from 0 on, a student who is root has; the tester has one more, which owns its limits."""


def can_lend_ids() -> bool:
    """Whether we are root and have ids of nobody to give: root of a small user namespace has none."""
    if os.geteuid() != 0:
        return False
    last = first_id() + TESTER_IDS - 1
    return any(m.inside <= first_id() and last < m.inside + m.count for m in read_uid_map())


def first_id() -> int:
    """Return the first of the ids of nobody that root lends to a sandbox; another zygote lends others."""
    return _FIRST_ID + os.getpid() % _RANGES * _IDS


def write_own_maps(user: int, group: int, *, inside: int = 0, proc: int | None = None) -> None:
    """Be `inside` in the user namespace that we are new in, root by default, and nobody else.

    Args:
        user: who we are outside.
        group: likewise.
        inside: the user and the group in there.
        proc: a directory of our own in a ``/proc``, where ours would be another's.
    """
    lines = (("setgroups", "deny"), ("gid_map", f"{inside} {group} 1"), ("uid_map", f"{inside} {user} 1"))
    for file, text in lines:
        name = f"/proc/self/{file}" if proc is None else file
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def lend_ids(pid: int) -> None:
    """Map the ids of the user namespace of `pid`, a root sandbox's T, to those of nobody."""
    ids = [IdMap(0, _FIRST_ID, TESTER_IDS)]
    write_gid_map(pid, ids)
    write_uid_map(pid, ids)


def delegate(path: Path, *, inside: int) -> None:
    """Give `path` to the id that is `inside` in a root sandbox."""
    os.chown(path, _FIRST_ID + inside, _FIRST_ID + inside)
