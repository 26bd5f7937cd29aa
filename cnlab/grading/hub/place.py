"""The directories of a hub, and who owns them.

place/              enterable by all
    course/         the instructor's alone: nbgrader's course with gradebook, source, submissions
    exchange/       nbgrader's exchange; everybody may make a course here, nobody may touch another's
        cnlab/      the instructor's; inbound: everybody may put something in, only the instructor can look
    jupyterhub/     the hub's alone: database, cookie secret

``python -m cnlab.grading.hub.place PLACE`` makes one that belongs to the caller.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cnlab.errors import InvalidValue

COURSE_ID = "cnlab"
LABS = Path(__file__).resolve().parents[3] / "labs"


class Owner(NamedTuple):
    """Whose something is."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a hub keeps what it keeps."""

    root: Path

    @property
    def course(self) -> Path:
        """Course directory of nbgrader."""
        return self.root / "course"

    @property
    def source(self) -> Path:
        """The assignments with their solutions."""
        return self.course / "source"

    @property
    def exchange(self) -> Path:
        """Exchange of nbgrader."""
        return self.root / "exchange"

    @property
    def shelf(self) -> Path:
        """Our course's part of the exchange."""
        return self.exchange / COURSE_ID

    @property
    def inbound(self) -> Path:
        """Where students put what they submit."""
        return self.shelf / "inbound"

    @property
    def state(self) -> Path:
        """What JupyterHub keeps."""
        return self.root / "jupyterhub"


def prepare(place: Place, *, owner: Owner, labs: Path) -> None:
    """Make what is missing in `place`; what is there stays as it is.

    The sticky bit keeps students from renaming or removing what others put into `inbound`.

    Args:
        place: where.
        owner: who teaches; another than the caller only for root.
        labs: assignments to begin with.
    """
    caller = Owner(os.geteuid(), os.getegid())
    _make(place.root, caller, 0o755)
    _make(place.state, caller, 0o700)
    _make(place.course, owner, 0o700)
    _make(place.exchange, caller, 0o1777)
    _make(place.shelf, owner, 0o755)
    _make(place.shelf / "outbound", owner, 0o755)
    _make(place.shelf / "feedback", owner, 0o711)
    _make(place.inbound, owner, 0o1733 | stat.S_ISGID)
    if not place.source.exists():
        _copy_labs(labs, place.source, owner)


def owner_called(name: str) -> Owner:
    """Return the ids of a user of this machine.

    Raises:
        InvalidValue: there is none of that name.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise InvalidValue(f"{name!r}: expected a user of this machine; see getent passwd") from None
    return Owner(entry.pw_uid, entry.pw_gid)


def _make(directory: Path, owner: Owner, mode: int) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True)
        os.chown(directory, *owner)
        directory.chmod(mode)  # after chown, which takes the set-group-ID bit away


def _copy_labs(labs: Path, source: Path, owner: Owner) -> None:
    """Give the instructor assignments that formgrader can edit."""
    unfinished = source.with_name("source.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(labs, unfinished, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    for directory, _, files in os.walk(unfinished):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            os.chown(path, *owner, follow_symlinks=False)
    unfinished.rename(source)


if __name__ == "__main__":
    prepare(Place(Path(sys.argv[1])), owner=Owner(os.getuid(), os.getgid()), labs=LABS)
