"""Whose a file is: the user and group ids that stand in a layer, and those that stand on disk.

They differ where the reader is not root, who alone gives files away, or where a namespace shall own them.

See: user_namespaces(7); chown(2).
"""

import os
from collections.abc import Sequence

from cnlab.linux.idmaps import IdMap, read_gid_map, read_uid_map


class Ownership:
    """Both directions of a user and a group map; `inside` is the layer, `outside` the disk."""

    def __init__(self, uid_map: Sequence[IdMap] | None, gid_map: Sequence[IdMap] | None) -> None:
        """Take maps; the default for None is `_usual`."""
        uids = _usual(read_uid_map(), os.geteuid()) if uid_map is None else uid_map
        gids = _usual(read_gid_map(), os.getegid()) if gid_map is None else gid_map
        self._uids, self._gids = _Ids(uids, os.geteuid()), _Ids(gids, os.getegid())
        self._on_disk: dict[tuple[int, int], tuple[int, int]] = {}

    def on_disk(self, uid: int, gid: int) -> tuple[int, int]:
        """Return whose a file of the layer becomes; ids that are not mapped become the caller's own."""
        owner = self._on_disk.get((uid, gid))
        if owner is None:
            owner = self._on_disk[uid, gid] = self._uids.outside(uid), self._gids.outside(gid)
        return owner

    def keeps(self, uid: int, gid: int) -> tuple[bool, bool]:
        """Whether user and group of the layer have ids of their own on disk."""
        return self._uids.is_mapped(uid), self._gids.is_mapped(gid)

    def in_layer(self, uid: int, gid: int) -> tuple[int, int]:
        """Return what stands in a layer for a file on disk; ids that are not mapped stay as they are."""
        return self._uids.inside(uid), self._gids.inside(gid)


def _usual(here: Sequence[IdMap], own: int) -> list[IdMap]:
    """Return how ids are kept by root, as far as its user namespace has them; for others root is they."""
    if os.geteuid() != 0:
        return [IdMap(0, own)]
    return [IdMap(known.inside, known.inside, known.count) for known in here]


class _Ids:
    def __init__(self, maps: Sequence[IdMap], own: int) -> None:
        self._maps = maps
        self._own = own

    def is_mapped(self, number: int) -> bool:
        return any(m.inside <= number < m.inside + m.count for m in self._maps)

    def outside(self, number: int) -> int:
        for m in self._maps:
            if m.inside <= number < m.inside + m.count:
                return number - m.inside + m.outside
        return self._own

    def inside(self, number: int) -> int:
        for m in self._maps:
            if m.outside <= number < m.outside + m.count:
                return number - m.outside + m.inside
        return number
