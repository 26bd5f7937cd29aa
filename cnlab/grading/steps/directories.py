"""Directories that appear all at once, and one grader at a time."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from cnlab.errors import CnlabError
from cnlab.linux import syscalls


class GradingInProgress(CnlabError):  # noqa: N818 - reads as the claim it makes
    """Another run is grading this course now."""


def put(staged: Path, place: Path) -> None:
    """Give a directory its place in one step; what was there is then where it came from."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(place)
        return
    try:
        syscalls.exchange(staged, place)
    except OSError:  # this file system cannot: for an instant there is nothing
        aside = staged.with_name(staged.name + ".old")
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
        staged.rename(place)
        aside.rename(staged)


@contextlib.contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Keep other runs off; the kernel opens the lock when this process ends, however it does.

    Raises:
        GradingInProgress: another run is at it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GradingInProgress(f"another run is grading {what}; wait for it, or end it") from None
        yield
