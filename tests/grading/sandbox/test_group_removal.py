"""A sandbox's control groups: what others on the machine may do to them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from cnlab.grading.sandbox import group_removal


def test_stranger_with_a_lock_stops_nobody(tmp_path: Path) -> None:
    """Who may look at the directory of control groups may lock it: any student with a terminal."""
    stranger = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(stranger, fcntl.LOCK_EX)
        with group_removal.making_in(tmp_path):
            (tmp_path / "group").mkdir()
    finally:
        os.close(stranger)

    assert (tmp_path / "group").is_dir()


def test_groups_are_not_looked_over_while_one_is_made(tmp_path: Path) -> None:
    """One that is made and not yet locked would look abandoned."""
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        with group_removal.making_in(tmp_path):
            is_free = _is_free(other)
        is_free_again = _is_free(other)
    finally:
        os.close(other)

    assert (is_free, is_free_again) == (False, True)


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
