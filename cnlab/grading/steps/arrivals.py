"""Which submissions lie in the exchange, whose they are, and when they came, by what students cannot forge.

Interface: ``arrivals(inbound)`` lists them; ``receive(inbound, name)`` takes one in.

A student owns what `nbgrader submit` puts into the exchange, and can edit it later: the notebook, the file
``timestamp.txt``, the time in the directory's name. So a submission is the kernel's word, not its own:

- Whose: its directory's owner. A name that claims somebody else is refused.
- When: the newest change time (``st_ctime``) in it. No call sets that; an edit makes a submission younger.
- What: after `receive`, a copy that belongs to the instructor. What a student edits afterwards is gone.
  Whose it was and when it came then stands in a file of it, out of the student's reach: where nobody has set
  the sticky bit of `inbound`, students can rename the copy.

Whoever takes submissions in holds the `lock`, or would clear away what another one has begun.

See: inode(7), "Last status change timestamp"; nbgrader's ``exchange/default/submit.py``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from cnlab.errors import CnlabError

MAX_FILES = 2_000
MAX_DEPTH = 16
MAX_BYTES = 256 << 20
TIMESTAMP = "%Y-%m-%d %H:%M:%S.%f %Z"
"""nbgrader's own format, in the directory's name and in ``timestamp.txt``."""

_NAME = re.compile(
    r"(?P<student>[^.+/][^+/]*)\+(?P<assignment>[^+/]+)\+(?P<timestamp>[^+/]+)(?P<random>\+[^+/]+)?"
)
REFUSED = ".refused-"  # a leading dot hides an entry from nbgrader's collect
STAGED = ".staged-"
GONE = ".gone-"
RECEIPT = ".arrival.json"
_LOCK = ".lock"


class Refused(CnlabError):  # noqa: N818 - reads as the claim it makes
    """Something in `inbound` is no submission that can be taken in; the message says why."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A submission in the exchange."""

    student: str
    assignment: str
    path: Path
    at: datetime  # UTC
    is_received: bool  # whether it is the instructor's copy


def lock(inbound: Path, *, wait: bool = True) -> IO[str] | None:
    """Keep others from taking in what lies there until the file that is returned is closed.

    None if somebody else is at it and `wait` is false. Nobody but the owner can open the file, or hold it.
    """
    fd = os.open(inbound.parent / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    file = os.fdopen(fd, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    return file


def set_sticky(inbound: Path) -> None:
    """Keep students from renaming what lies there; nbgrader makes the directory without the sticky bit."""
    status = inbound.stat()
    if status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX:
        inbound.chmod(stat.S_IMODE(status.st_mode) | stat.S_ISVTX)


def arrivals(inbound: Path) -> list[Arrival]:
    """Return what has arrived, oldest first; what `receive` would refuse is left out."""
    found = []
    for name in os.listdir(inbound):
        with contextlib.suppress(Refused, FileNotFoundError):
            found.append(read_arrival(inbound, name))
    return sorted(found, key=lambda arrival: (arrival.at, arrival.path))


def read_arrival(inbound: Path, name: str) -> Arrival:
    """Return who handed in the directory `name`, what, and when.

    Raises:
        Refused: the name is none of nbgrader's, or claims another student than the owner.
        FileNotFoundError: it has been taken in meanwhile.
    """
    words = _NAME.fullmatch(name)
    if words is None:
        raise Refused(f"{name!r}: expected STUDENT+ASSIGNMENT+TIMESTAMP+RANDOM, as nbgrader submit names it")
    path = inbound / name
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"{name!r}: expected a directory, as nbgrader submit makes it")
    if status.st_uid == inbound.stat().st_uid and (received := _received(path)):
        return received
    student, assignment = words["student"], words["assignment"]
    if student != (owner := _user_name(status.st_uid)):
        raise Refused(f"{name!r}: claims to be by {student!r} and belongs to {owner!r}")
    with _open_directory(path) as directory:
        newest = max([os.fstat(directory).st_ctime, *(entry.status.st_ctime for entry in _walk(directory))])
    return Arrival(student, assignment, path, datetime.fromtimestamp(newest, UTC), is_received=False)


def _received(path: Path) -> Arrival | None:
    with _open_directory(path) as directory:
        return _receipt(directory, path)


def _receipt(directory: int, path: Path) -> Arrival | None:
    """Return what a received copy says of itself; None if it is none, but what others can have written."""
    status = os.fstat(directory)
    if status.st_uid != path.parent.stat().st_uid or status.st_mode & 0o077:
        return None
    try:
        fd = os.open(RECEIPT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        with open(fd) as file:
            said = json.load(file)
        at = _parse_timestamp(said["at"])
        return Arrival(said["student"], said["assignment"], path, at, is_received=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def copy_received(arrival: Arrival, to: Path) -> None:
    """Copy a received submission, as it was handed in; nothing is copied that a student can change.

    Raises:
        Refused: its name stands for something else by now.
    """
    with _open_directory(arrival.path) as directory:
        if _receipt(directory, arrival.path) != arrival:
            raise Refused(f"{arrival.path.name!r}: was renamed while it was collected")
        here = f"/proc/self/fd/{directory}"
        shutil.copytree(here, to, symlinks=True, ignore=shutil.ignore_patterns(RECEIPT))


def is_complete(path: Path, now: float, *, quiet_s: float = 60.0) -> bool:
    """Say whether `nbgrader submit` has done its last act, a chmod, or has long done nothing."""
    status = path.lstat()
    return bool(status.st_mode & stat.S_IWOTH) or now - status.st_ctime > quiet_s


def receive(inbound: Path, name: str) -> Arrival | None:
    """Put the instructor's copy of a submission in its place; None when it is being changed just now.

    The copy's ``timestamp.txt`` says when it came, and its receipt whose it is as well. It appears by one
    rename, so that a run which dies half-way leaves the submission as it was or received, and the next run
    goes on. What the student owns is put aside.

    Raises:
        Refused: it cannot be taken in.
        OSError: it cannot be read: a student has taken the instructor's right to.
    """
    arrival = read_arrival(inbound, name)
    if arrival.is_received:
        return arrival
    text = arrival.at.strftime(TIMESTAMP)
    random = name.rpartition("+")[2]
    received = inbound / f"{arrival.student}+{arrival.assignment}+{text}+{random}"
    with _staging(inbound) as staged:
        _copy(arrival, staged)
        (staged / "timestamp.txt").write_text(text)
        said = {"student": arrival.student, "assignment": arrival.assignment, "at": text}
        (staged / RECEIPT).write_text(json.dumps(said))
        if read_arrival(inbound, name) != arrival:
            return None
        _put_in_place(staged, received)
    put_aside(inbound, name, GONE)
    return Arrival(arrival.student, arrival.assignment, received, arrival.at, is_received=True)


def put_aside(inbound: Path, name: str, prefix: str) -> None:
    """Hide an entry from nbgrader's commands."""
    os.rename(inbound / name, inbound / f"{prefix}{secrets.token_hex(8)}")


@contextlib.contextmanager
def _staging(inbound: Path) -> Iterator[Path]:
    staged = inbound / f"{STAGED}{secrets.token_hex(8)}"
    staged.mkdir(mode=0o700)
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _put_in_place(staged: Path, received: Path) -> None:
    try:
        staged.rename(received)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        if received.lstat().st_uid != staged.stat().st_uid:
            raise Refused(f"{received.name!r}: a student has made what only the desk makes") from None
        # an earlier run has received it and was ended before it had put the student's aside


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file or directory of a submission, and where it was found."""

    parent: int  # an open directory
    name: str
    relative: str
    status: os.stat_result


def _walk(directory: int) -> Iterator[_Entry]:
    """Yield each directory and each regular file of its owner; never what a link leads to.

    Raises:
        Refused: there is more in it than a submission may have.
    """
    owner, found = os.fstat(directory).st_uid, 0
    size = 0
    for entry in _walk_all(directory, ""):
        if entry.status.st_uid != owner:  # a hard link to what belongs to somebody else
            continue
        found, size = found + 1, size + entry.status.st_size
        if found > MAX_FILES or size > MAX_BYTES:
            raise Refused(f"more than {MAX_FILES} files or {MAX_BYTES >> 20} MiB")
        yield entry


def _walk_all(directory: int, above: str) -> Iterator[_Entry]:
    if above.count("/") > MAX_DEPTH:
        raise Refused(f"directories more than {MAX_DEPTH} deep")
    with os.scandir(directory) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            found = _Entry(directory, entry.name, f"{above}{entry.name}", status)
            if stat.S_ISREG(status.st_mode):
                yield found
            elif stat.S_ISDIR(status.st_mode):
                yield found
                with _open_directory(entry.name, directory) as inner:
                    yield from _walk_all(inner, f"{above}{entry.name}/")


def _copy(arrival: Arrival, staged: Path) -> None:
    """Copy directories and regular files, and no more of a file than it was long when it was looked at."""
    with _open_directory(arrival.path) as directory:
        for entry in _walk(directory):
            copy = staged / entry.relative
            if stat.S_ISDIR(entry.status.st_mode):
                copy.mkdir(mode=0o700)
                continue
            source = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=entry.parent)
            with open(source, "rb") as reader, open(copy, "xb", opener=_private) as writer:
                if not os.path.samestat(os.fstat(source), entry.status):
                    raise OSError(errno.ESTALE, f"open({entry.relative!a}): it was changed while it was read")
                while part := reader.read(min(1 << 20, entry.status.st_size - writer.tell())):
                    writer.write(part)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def _open_directory(path: str | Path, parent: int | None = None) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK
    directory = os.open(path, flags, dir_fd=parent)
    try:
        yield directory
    finally:
        os.close(directory)


def _parse_timestamp(text: str) -> datetime:
    try:
        return datetime.strptime(text, TIMESTAMP).replace(tzinfo=UTC)
    except ValueError:
        raise Refused(f"{text!r}: expected a time like '2026-11-29 23:59:00.000000 UTC'") from None


def _user_name(uid: int) -> str:
    """Ask the system; on Kubernetes, where a container does not know others' users, the file of names."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        file = os.environ.get("CNLAB_PASSWD")
        lines = Path(file).read_text().splitlines() if file else []
        names = (line.split(":")[0] for line in lines if line.split(":")[2] == str(uid))
        return next(names, f"user {uid}")
