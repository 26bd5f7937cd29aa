"""What tests may leave behind in places that they share with everybody else on the machine.

Others come and go there, another run of these tests for one: so each function looks for what is ours, by its
owner or by a name that nobody else would give."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Known before a test becomes the student: whether the student then has a user id that nobody else has.
_HAS_STAND_IN = os.geteuid() == 0


def own_files() -> set[Path]:
    """What this user has where private kernels put their files, unless others of the same id do so, too."""
    return set(_own_files())


def _own_files() -> Iterator[Path]:
    own = os.environ.get("TMPDIR", tempfile.gettempdir())
    for place in (own, "/dev/shm") if _HAS_STAND_IN else (own,):
        for path in Path(place).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_uid == os.getuid():
                    yield path


def control_groups(pattern: str, tree: str = "/sys/fs/cgroup") -> list[str]:
    """The control groups below `tree` whose names match.

    Unlike the patterns of `pathlib`, this takes no offence at a group that goes while we look."""
    return sorted(
        os.path.join(above, name)
        for above, names, _ in os.walk(tree)
        for name in fnmatch.filter(names, pattern)
    )
