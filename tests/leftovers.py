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


def own_files() -> set[Path]:
    """What this user has where private kernels put their files."""
    return set(_own_files())


def _own_files() -> Iterator[Path]:
    for place in (os.environ.get("TMPDIR", tempfile.gettempdir()), "/dev/shm"):
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
