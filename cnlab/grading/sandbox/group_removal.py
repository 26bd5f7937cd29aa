"""How a sandbox's control groups go away, also those whose maker was killed.

A maker locks each of its groups (flock(2)) for as long as it lives: one that nobody holds is abandoned.
"""

import contextlib
import errno
import fcntl
import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from cnlab.clock import wait_until
from cnlab.grading.sandbox import group_trees

PREFIX = "cnlab-sandbox-"
_PATIENCE_S = 2.0


def is_removed(parent: int, name: str) -> bool:
    """Try to remove the group `name` in `parent`; say whether it is gone."""
    try:
        _remove_below(parent, name)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):  # a zombie stays a member until it is reaped
            raise
        return False
    return True


def _remove_below(parent: int, name: str) -> None:
    """Remove a group and those below it, which its processes may have made; by descriptors, however deep."""
    with contextlib.suppress(OSError):
        return os.rmdir(name, dir_fd=parent)
    own = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
    try:
        for entry in os.scandir(own):
            if entry.is_dir(follow_symlinks=False):
                _remove_below(own, entry.name)
    finally:
        os.close(own)
    os.rmdir(name, dir_fd=parent)


def remove_stale() -> list[str]:
    """Remove groups whose maker was killed before it could: nobody holds their lock. Return their names."""
    found = []
    for parent in group_trees.parents():
        with contextlib.suppress(OSError), _alone_in(parent) as parent_fd:
            for directory in parent.glob(f"{PREFIX}*"):
                if _is_abandoned(directory):
                    _kill(directory)
                    wait_until(functools.partial(is_removed, parent_fd, directory.name), timeout_s=2)
                    found.append(directory.name)
    return found


@contextlib.contextmanager
def making_in(parent: Path) -> Iterator[None]:
    """Keep `remove_stale` out while a group in `parent` is made and not yet locked."""
    fds: list[int] = []
    with contextlib.suppress(TimeoutError):  # a stranger who can see the directory may hold its lock for ever
        fds = wait_until(lambda: _shared(parent), timeout_s=_PATIENCE_S)
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)


def _shared(directory: Path) -> list[int]:
    """Lock a directory together with others who make groups; nothing while somebody has it alone."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return []
    return [fd]


@contextlib.contextmanager
def _alone_in(parent: Path) -> Iterator[int]:
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)


def _is_abandoned(directory: Path) -> bool:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _kill(directory: Path) -> None:
    for pid in (directory / "cgroup.procs").read_text().split():
        if pid == "0":  # a member that our pid namespace has no number for; kill(0) would mean ourselves
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
