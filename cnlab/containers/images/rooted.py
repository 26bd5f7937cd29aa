"""A directory tree that no path leads out of, whatever links are in it and whoever moves them meanwhile.

Interface: `RootedTree.directory` resolves the directory of a path, by openat2(2), to a descriptor; all that
is done there takes that descriptor and one name, and follows no link. Paths are what `paths.split` makes of
them.

The usual trap is to check a path first and to open it then: between the two, a directory may become a link.
The kernel checks and opens in one call.

See: openat2(2), RESOLVE_BENEATH and RESOLVE_IN_ROOT; path_resolution(7).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterator

from cnlab.containers.images.paths import Names, shown
from cnlab.errors import InvalidImage
from cnlab.linux import syscalls

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_MAX_OPEN = 64
_ATTEMPTS = 100


class RootedTree:
    """The tree below a directory; close it after use."""

    def __init__(self, path: str | os.PathLike[str], *, owner: tuple[int, int] = (-1, -1)) -> None:
        """Open the tree; directories that it makes belong to the user and group `owner`."""
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._owner = owner
        self._open: dict[Names, int] = {}
        self._opened_up: dict[Names, int] = {}
        self._escapes: set[Names] = set()
        self._is_root = os.geteuid() == 0

    def close(self) -> None:
        """Close all descriptors."""
        self._forget()
        os.close(self._root)

    def _forget(self) -> None:
        """Close the directories held open; a path may have come to mean another one."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def directory(self, names: Names) -> int:
        """Return a descriptor of a directory, valid until the next call; make what is missing.

        Raises:
            InvalidImage: a link on the way leads out or nowhere, or a file stands in the way.
        """
        found = self.find(names)
        return self._hold(names, self._make(names)) if found is None else found

    def find(self, names: Names) -> int | None:
        """Return a descriptor of a directory, valid until the next call, or None if there is none."""
        if not names:
            return self._root
        if (fd := self._open.get(names)) is not None:
            return fd
        try:
            return self._hold(names, self._resolve(names))
        except FileNotFoundError:
            return None

    def _hold(self, names: Names, fd: int) -> int:
        if len(self._open) >= _MAX_OPEN:
            self._forget()
        self._open[names] = fd
        if not self._is_root:
            self._open_up(names, fd)
        return fd

    def _resolve(self, names: Names) -> int:
        """Open a directory; a link may lead to anywhere in the tree, seen as from a chroot.

        A link of a lower layer, such as ``/var/run -> /run``, is part of the root file system. A link that
        the layer itself has put there to lead out is an attack: who walks a tree finds no path through one.
        """
        path = shown(b"/".join(names))
        for resolve in (syscalls.RESOLVE_BENEATH, syscalls.RESOLVE_IN_ROOT):
            try:
                return self._openat2(names, resolve | syscalls.RESOLVE_NO_MAGICLINKS)
            except NotADirectoryError:
                raise InvalidImage(f"layer: {path}: no directory, but files go there") from None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise InvalidImage(f"layer: {path}: a link on this path goes in circles") from None
                if error.errno != errno.EXDEV:
                    raise
            if any(names[:depth] in self._escapes for depth in range(1, len(names) + 1)):
                break
        raise InvalidImage(f"layer: {path}: a link on this path leads out of the root file system")

    def _openat2(self, names: Names, resolve: int) -> int:
        path = os.fsdecode(b"/".join(names))
        for _ in range(_ATTEMPTS):
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY
                return syscalls.openat2(self._root, path, flags, resolve=resolve)
            except BlockingIOError:  # EAGAIN: somebody moves directories
                continue
        raise InvalidImage(f"layer: {path}: somebody else keeps changing the root file system")

    def _make(self, names: Names) -> int:
        """Make the directories that are missing on the way, and open the last."""
        for depth in range(1, len(names) + 1):
            parent = self.directory(names[: depth - 1])
            with contextlib.suppress(FileExistsError):
                os.mkdir(names[depth - 1], 0o700, dir_fd=parent)
                with _opened(parent, names[depth - 1]) as fd:
                    os.fchown(fd, *self._owner)
                    os.fchmod(fd, 0o755)
        try:
            return self._resolve(names)
        except FileNotFoundError:
            path = shown(b"/".join(names))
            where = "out of the root file system, or nowhere"
            raise InvalidImage(f"layer: {path}: a link on this path leads {where}") from None

    def _open_up(self, names: Names, fd: int) -> None:
        """Let ourselves into a directory that its owner, who is not root, may not write."""
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & 0o700 != 0o700:
            os.fchmod(fd, mode | 0o700)
            self._opened_up[names] = mode

    def set_mode(self, names: Names, fd: int, mode: int) -> None:
        """Set the permissions of the open directory `names` for good."""
        self._opened_up.pop(names, None)
        os.fchmod(fd, mode)

    def is_directory(self, names: Names) -> bool:
        """Whether there is a directory, and no link to one."""
        parent = self.find(names[:-1])
        if parent is None:
            return False
        try:
            status = os.stat(names[-1], dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(status.st_mode)

    def close_up(self) -> None:
        """Give the directories that were opened up the permissions that they had."""
        while self._opened_up:
            names, mode = self._opened_up.popitem()  # the last first: it may be below the others
            if (fd := self.find(names)) is not None:
                os.fchmod(fd, mode)

    def remove(self, names: Names, *, keep: Collection[Names] = ()) -> None:
        """Remove a file, or a directory with all in it, but nothing that is in `keep`.

        What is not there is no error: a layer may delete what a lower one never had.
        """
        self._escapes.discard(names)
        parent = self.find(names[:-1])
        if parent is not None:
            with contextlib.suppress(FileNotFoundError):
                _remove(parent, names, keep)
            self._forget()

    def empty(self, names: Names, *, keep: Collection[Names] = ()) -> None:
        """Remove what is in a directory, but nothing that is in `keep`."""
        fd = self.find(names)
        if fd is not None:
            for name in os.listdir(fd):
                _remove(fd, (*names, os.fsencode(name)), keep)
            self._forget()

    def note_link(self, names: Names, target: bytes) -> None:
        """Remember a link that leads out of the tree, if `directory` would follow it."""
        depth = len(names) - 1
        for name in target.split(b"/"):
            depth += {b"..": -1, b".": 0, b"": 0}.get(name, 1)
            if depth < 0:
                break
        if depth < 0 or target.startswith(b"/"):
            self._escapes.add(names)


def _remove(parent: int, names: Names, keep: Collection[Names]) -> None:
    """Remove the last of `names`, which is in the open directory `parent`."""
    name = names[-1]
    is_kept = names in keep
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        if not is_kept:
            os.unlink(name, dir_fd=parent)
        return
    with _opened(parent, name) as fd:
        for child in os.listdir(fd):
            _remove(fd, (*names, os.fsencode(child)), keep)
    if not is_kept:
        os.rmdir(name, dir_fd=parent)


@contextlib.contextmanager
def _opened(parent: int, name: bytes) -> Iterator[int]:
    if os.geteuid() != 0:  # who is bound by permissions may have none there
        with contextlib.suppress(PermissionError):
            handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            try:
                os.chmod(f"/proc/self/fd/{handle}", 0o700)
            finally:
                os.close(handle)
    fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)
