"""Who the processes of a sandbox are: the ids of its user namespaces.

See: user_namespaces(7), "User and group ID mappings".
"""

import os

_FIRST_ID, _IDS, _RANGES = 0x7000_0000, 0x1_0000, 0x4000  # above what people and container engines use


def first_id() -> int:
    """Return the first of the ids of nobody that root lends to a sandbox; another zygote lends others."""
    return _FIRST_ID + os.getpid() % _RANGES * _IDS


def write_own_maps(user: int, group: int) -> None:
    """Be root of the user namespace that we were born in, and nobody else."""
    for file, text in (("setgroups", "deny"), ("gid_map", f"0 {group} 1"), ("uid_map", f"0 {user} 1")):
        with open(f"/proc/self/{file}", "w") as opened:
            opened.write(text)
