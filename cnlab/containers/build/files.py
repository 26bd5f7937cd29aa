"""What COPY copies: find the files, tell whether they have changed, write them into a root file system.

The source is a tree: the context, or the root file system of another stage. Links in it are followed as from
a process whose root it is, so that none leads to the machine that builds.
"""

import fnmatch
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cnlab.containers.build.ignore import Ignore
from cnlab.errors import InvalidValue
from cnlab.linux import syscalls


@dataclass(frozen=True, slots=True)
class Source:
    """A file to copy, or a directory to make."""

    path: Path  # on this machine
    target: str  # below the destination; empty: the destination itself


@dataclass(frozen=True, slots=True)
class Tree:
    """Where sources are looked for."""

    root: Path
    name: str  # for messages
    ignore: Ignore = field(default_factory=Ignore)

    def select(self, patterns: Iterable[str]) -> list[Source]:
        """Return what the sources of a COPY mean: of a directory all that is in it, of ``*.py`` the matches.

        Raises:
            InvalidValue: a pattern matches nothing, or climbs out.
        """
        return [source for pattern in patterns for source in self._select(pattern)]

    def _select(self, pattern: str) -> Iterator[Source]:
        found = [path for path in self._matches(pattern) if not self.ignore.hides(self._relative(path))]
        if not found:
            hidden = " (.dockerignore hides it)" if self.ignore.rules and self._matches(pattern) else ""
            raise InvalidValue(f"{self.name} has no {pattern}{hidden}")
        for path in found:
            real = self._real(path)
            if not real.is_dir():
                yield Source(real, path.name)
                continue
            yield Source(real, "")
            yield from self._below(real)

    def _below(self, directory: Path) -> Iterator[Source]:
        for parent, directories, files in os.walk(directory):
            directories.sort()
            for name in sorted([*directories, *files]):
                path = Path(parent, name)
                if not self.ignore.hides(self._relative(path)):
                    yield Source(path, str(path.relative_to(directory)))

    def _matches(self, pattern: str) -> list[Path]:
        parts = PurePosixPath(pattern).parts
        if ".." in parts:
            raise InvalidValue(f"{pattern} leads out of {self.name}")
        found = [self.root]
        for part in (part for part in parts if part != "/"):
            found = [child for path in found for child in self._children(path, part)]
        return found

    def _children(self, path: Path, part: str) -> list[Path]:
        """Return the entries of a directory that match one component of a pattern."""
        directory = self._real(path)
        if not any(character in part for character in "*?["):
            child = directory / part
            return [child] if os.path.lexists(child) else []
        names = os.listdir(directory) if directory.is_dir() else []
        return [directory / name for name in sorted(names) if fnmatch.fnmatchcase(name, part)]

    def _real(self, path: Path) -> Path:
        try:
            return resolve(self.root, self._relative(path))
        except OSError:  # ENOENT, or ELOOP
            raise InvalidValue(
                f"{self._relative(path)} is a link that leads nowhere in {self.name}"
            ) from None

    def _relative(self, path: Path) -> str:
        relative = str(path.relative_to(self.root))
        return "" if relative == "." else relative


def digest(sources: Iterable[Source]) -> str:
    """Return a digest of names, modes and contents; times do not count, so a fresh checkout is the same."""
    running = hashlib.sha256()
    for source in sources:
        if not source.target:
            continue
        status = source.path.lstat()
        running.update(json.dumps([source.target, status.st_mode, _content(source.path, status)]).encode())
    return f"sha256:{running.hexdigest()}"


def _content(path: Path, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.st_mode):
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy(
    sources: Iterable[Source],
    rootfs: Path,
    destination: str,
    *,
    owner: tuple[int, int] | None = None,
    mode: int | None = None,
) -> None:
    """Write sources into a root file system.

    Args:
        sources: what to copy.
        rootfs: where ``/`` is.
        destination: an absolute path there; files go into it if it is a directory or ends with a slash.
        owner: user and group id of all that is copied; None: as they are.
        mode: permissions of the files; None: as they are.
    """
    sources = list(sources)
    is_directory = destination.endswith("/") or any(not source.target for source in sources)
    is_directory = is_directory or _is_directory(rootfs, destination)
    if len(sources) > 1 and not is_directory:
        raise InvalidValue(f"{len(sources)} files need a directory as destination: {destination}/")
    for source in sources:
        target = PurePosixPath(destination, source.target) if is_directory else PurePosixPath(destination)
        if source.path.is_dir() and not source.path.is_symlink():
            written = make_directories(rootfs, str(target), owner=owner)
            if source.target:  # else it is the destination, which keeps what it has, or the default
                _dress(source.path, written, owner, None)
        else:
            written = make_directories(rootfs, str(target.parent), owner=owner) / target.name
            _write(source.path, written)
            _dress(source.path, written, owner, mode)


def _write(path: Path, target: Path) -> None:
    """Put a file or link in the place of what is there; a link there is replaced, not followed."""
    if os.path.lexists(target):
        target.unlink()
    if path.is_symlink():
        target.symlink_to(os.readlink(path))
    elif path.is_file():
        shutil.copyfile(path, target)
    else:
        raise InvalidValue(f"{path} is neither file, directory nor link")


def _dress(path: Path, target: Path, owner: tuple[int, int] | None, mode: int | None) -> None:
    """Give a copy its owner, and then its permissions and times: chown(2) takes set-user-ID bits away.

    Extended attributes come along only where the owner does: those of the context are its machine's.
    """
    status = path.lstat()
    os.chown(target, *(owner or (status.st_uid, status.st_gid)), follow_symlinks=False)
    if owner is None:
        shutil.copystat(path, target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        target.chmod(stat.S_IMODE(status.st_mode) if mode is None else mode)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)


def resolve(root: Path, path: str) -> Path:
    """Return where `path` leads in a tree, with links followed as if the tree were all there is.

    Raises:
        FileNotFoundError: nowhere.

    See: openat2(2), RESOLVE_IN_ROOT.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = syscalls.openat2(top, path.lstrip("/") or ".", os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT)
    finally:
        os.close(top)
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


def make_directories(root: Path, path: str, *, owner: tuple[int, int] | None = None) -> Path:
    """Make the directories that are missing on the way to `path` in a tree; return where it leads.

    Raises:
        InvalidValue: something on the way is no directory.
    """
    found = resolve(root, "")
    done = PurePosixPath()
    for part in PurePosixPath(path.lstrip("/")).parts:
        done /= part
        try:
            found = resolve(root, str(done))
        except FileNotFoundError:
            found = found / part
            if found.is_symlink():
                raise InvalidValue(f"/{done} is a link that leads nowhere") from None
            found.mkdir(mode=0o755)
            if owner:
                os.chown(found, *owner)
        if not found.is_dir():
            raise InvalidValue(f"/{done} is no directory")
    return found


def _is_directory(rootfs: Path, path: str) -> bool:
    try:
        return resolve(rootfs, path).is_dir()
    except OSError:  # ENOENT, ENOTDIR
        return False
