"""A hub to try out: system users and a place that are made for it and gone when it ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cnlab.clock import wait_until
from cnlab.errors import CnlabError
from cnlab.grading.hub.place import Place


class UserExists(CnlabError):  # noqa: N818 - reads as the claim it makes
    """A demonstration makes its users and removes them again; it takes nobody who is there already."""


@contextlib.contextmanager
def demonstration(users: Sequence[str]) -> Iterator[tuple[Place, dict[str, str]]]:
    """Make system users with homes in a new place; give it and their passwords; remove all with the block.

    A guard does the removing: a child that waits for the end of the caller, also for a sudden one.

    Raises:
        UserExists: one of the names is taken.
    """
    _refuse_taken(users)
    root = Path(tempfile.mkdtemp(prefix="cnlab-hub-"))
    root.chmod(0o755)
    with _at_the_end(lambda: _remove(users, root)):
        (root / "home").mkdir(mode=0o755)
        passwords = {name: secrets.token_urlsafe(9) for name in users}
        for name in users:
            _useradd(name, root / "home" / name)
        lines = "".join(f"{name}:{password}\n" for name, password in passwords.items())
        subprocess.run(["chpasswd"], input=lines, text=True, check=True)
        yield Place(root), passwords


def _refuse_taken(users: Sequence[str]) -> None:
    for name in users:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            error = UserExists(f"there is a user {name!r} on this machine already")
            error.add_note(
                "Hint: run the hub without --demo for the users there are, or name others: --users a,b,c"
            )
            raise error


def _useradd(name: str, home: Path) -> None:
    command = [
        "useradd",
        "--no-log-init",
        "--create-home",
        "--home-dir",
        f"{home}",
        "--shell",
        "/bin/bash",
        name,
    ]
    subprocess.run(command, check=True, capture_output=True)
    home.chmod(0o700)


@contextlib.contextmanager
def _at_the_end(remove: Callable[[], None]) -> Iterator[None]:
    """Fork a guard that calls `remove` when the block has ended, or this process and the hub have."""
    waiting, holding = os.pipe()
    os.set_inheritable(holding, True)
    guard = os.fork()
    if guard == 0:
        with contextlib.suppress(BaseException):
            os.setsid()  # Ctrl-C at the terminal is for the hub
            os.close(holding)
            os.read(waiting, 1)  # ends when nobody holds the other end any more
            remove()
        os._exit(0)
    os.close(waiting)
    try:
        yield
    finally:
        os.close(holding)
        os.waitpid(guard, 0)


def _remove(users: Sequence[str], root: Path) -> None:
    for name in users:
        with contextlib.suppress(KeyError):
            uid = pwd.getpwnam(name).pw_uid
            with contextlib.suppress(TimeoutError):
                wait_until(lambda uid=uid: not _kill_all_of(uid), timeout_s=10)  # type: ignore[misc]
            subprocess.run(["userdel", "--force", name], capture_output=True)
    shutil.rmtree(root, ignore_errors=True)


def _kill_all_of(uid: int) -> int:
    """Kill what runs as `uid` now, and return how many there were."""
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            status = Path("/proc", pid, "status").read_text()
            if int(status.partition("\nUid:")[2].split()[0]) == uid and "\nState:\tZ" not in status:
                found += 1
                os.kill(int(pid), signal.SIGKILL)
    return found
