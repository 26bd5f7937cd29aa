"""Who is who in a user namespace: ``/proc/PID/uid_map`` and ``gid_map``.

See: user_namespaces(7), "User and group ID mappings".
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cnlab.errors import InvalidValue
from cnlab.linux import procfs


@dataclass(frozen=True, slots=True)
class IdMap:
    """`count` ids from `inside` on are, seen from the namespace of the reader, those from `outside` on."""

    inside: int
    outside: int
    count: int = 1

    def __post_init__(self) -> None:
        if self.inside < 0 or self.outside < 0 or self.count < 1:
            raise InvalidValue(f"{self} maps no ids; expected inside and outside from 0 on, count from 1 on")


def parse_id_map(text: str) -> list[IdMap]:
    """Read the lines of a ``uid_map`` or ``gid_map`` file."""
    return [IdMap(*map(int, line.split())) for line in text.splitlines()]


def read_uid_map(pid: int | str = "self") -> list[IdMap]:
    """Return how user ids of `pid`'s user namespace map to ours; empty if nobody has written the map yet."""
    return parse_id_map(procfs.read(pid, "uid_map"))


def read_gid_map(pid: int | str = "self") -> list[IdMap]:
    """Return how group ids of `pid`'s user namespace map to ours."""
    return parse_id_map(procfs.read(pid, "gid_map"))


def write_uid_map(pid: int | str, maps: Sequence[IdMap]) -> None:
    """Map user ids into the user namespace of `pid`: possible once, from outside, and as a whole.

    Without CAP_SETUID the kernel accepts a single line that maps the writer's own id.
    """
    _write(f"/proc/{pid}/uid_map", "".join(f"{m.inside} {m.outside} {m.count}\n" for m in maps))


def write_gid_map(pid: int | str, maps: Sequence[IdMap]) -> None:
    """Map group ids into the user namespace of `pid`.

    Who is not root must first give up setgroups(2) there: to drop a group can widen access, where a file
    denies it to that group.
    """
    if os.geteuid() != 0:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/gid_map", "".join(f"{m.inside} {m.outside} {m.count}\n" for m in maps))


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())  # in one write: the kernel takes no second one
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"write({path}, {text!r}): {error.strerror}") from None
