"""Write the members of a layer into a root file system, one after the other.

Interface: `Extraction.take` for each member in the order of the archive, then `finish`.

Two things wait until `finish`: times and permissions of directories, since to write into a directory changes
the one and needs the other. And whiteouts hide what lower layers have, never what this layer has brought, in
whatever order they come.

See: OCI image-spec, layer.md, "Applying Changesets".
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import TypeVar

from cnlab.containers.images import tar
from cnlab.containers.images.ownership import Ownership
from cnlab.containers.images.paths import Names, shown, split
from cnlab.containers.images.rooted import RootedTree
from cnlab.containers.images.tar import Member
from cnlab.containers.images.tar_reader import TarReader
from cnlab.errors import InvalidImage

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."  # names of aufs' own books, which Docker wrote into layers once
OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_NODES = {tar.CHAR: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_ID = 0xFFFF_FFFF  # to chown(2) it says: leave it
_MAX_MAJOR, _MAX_MINOR = 0xFFF, 0xF_FFFF
_XATTRS_REFUSED = (errno.EPERM, errno.EOPNOTSUPP, errno.EACCES)

_T = TypeVar("_T")


class Extraction:
    """A layer that is being applied to the directory `rootfs`."""

    def __init__(
        self,
        rootfs: str | os.PathLike[str],
        reader: TarReader,
        ownership: Ownership,
        *,
        makes_devices: bool,
    ) -> None:
        self.left_out: list[str] = []
        self._tree = RootedTree(rootfs, owner=ownership.on_disk(0, 0))
        self._reader = reader
        self._ownership = ownership
        self._makes_devices = makes_devices
        self._brought: set[Names] = set()  # by this layer, with the directories above
        self._directories: dict[Names, Member] = {}
        self._take = {
            tar.FILE: self._file,
            tar.SPARSE: self._file,
            tar.LINK: self._link,
            tar.SYMLINK: self._symlink,
            tar.CHAR: self._node,
            tar.BLOCK_DEVICE: self._node,
            tar.DIRECTORY: self._directory,
            tar.FIFO: self._node,
        }

    def __enter__(self) -> "Extraction":
        return self

    def __exit__(self, *exc: object) -> None:
        self._tree.close()

    def take(self, member: Member) -> None:
        """Do what one member says."""
        names = split(member.name)
        if not (0 <= member.uid < _NO_ID and 0 <= member.gid < _NO_ID):
            raise InvalidImage(f"layer: {shown(member.name)}: owner {member.uid}:{member.gid} is no id")
        try:
            if WHITEOUT in member.name and self._is_marker(names):
                return
            self._note_brought(names)
            self._take[member.type](member, names)
        except OSError as error:
            told = OSError(error.errno, f"apply({shown(member.name)}): {error.strerror}")
            for note in getattr(error, "__notes__", ()):
                told.add_note(note)
            raise told from None

    def _note_brought(self, names: Names) -> None:
        for depth in range(len(names), 0, -1):
            if names[:depth] in self._brought:
                break
            self._brought.add(names[:depth])

    def _is_marker(self, names: Names) -> bool:
        """Apply a whiteout, if the path is one; aufs' own books are ignored."""
        if any(name.startswith(_AUFS) and name != OPAQUE for name in names):
            return True
        *above, name = names
        if any(directory.startswith(WHITEOUT) for directory in above):
            raise InvalidImage(f"layer: {shown(b'/'.join(names))}: a whiteout is no directory")
        if not name.startswith(WHITEOUT):
            return False
        hidden = name.removeprefix(WHITEOUT)
        if name == OPAQUE:
            self._tree.empty(names[:-1], keep=self._brought)
        elif hidden in (b"", b".", b".."):
            raise InvalidImage(f"layer: {shown(b'/'.join(names))}: a whiteout that hides no file")
        else:
            self._tree.remove((*above, hidden), keep=self._brought)
        return True

    def finish(self) -> None:
        """Give directories their permissions and times, the deepest first."""
        for names in sorted(self._directories, reverse=True):
            member = self._directories[names]
            fd = self._tree.find(names)
            if fd is not None:
                os.fchown(fd, *self._owner(member))
                self._set_xattrs(fd, member)
                self._tree.set_mode(names, fd, self._mode(member))
                os.utime(fd, ns=_times(member))
        self._tree.close_up()

    # One function for each type of member

    def _directory(self, member: Member, names: Names) -> None:
        if names and not self._tree.is_directory(names):
            self._make(names, lambda name, fd: os.mkdir(name, 0o700, dir_fd=fd))
        self._directories[names] = member

    def _file(self, member: Member, names: Names) -> None:
        fd = self._make(names, lambda name, fd: os.open(name, _NEW_FILE, 0o600, dir_fd=fd))
        try:
            self._write(fd, member)
            os.fchown(fd, *self._owner(member))
            os.fchmod(fd, self._mode(member))
            if member.xattrs:  # after fchown, which takes capabilities away
                self._set_xattrs(fd, member)
            os.utime(fd, ns=_times(member))
        finally:
            os.close(fd)

    def _link(self, member: Member, names: Names) -> None:
        target = split(member.target)
        if target == names:
            return
        missing = f"layer: {shown(member.name)}: a hard link to {shown(member.target)!r}, which is not there"
        directory = self._tree.find(target[:-1])
        if directory is None or not target:
            raise InvalidImage(missing)
        source = os.dup(directory)  # the tree may close its own while it looks for the other
        try:
            self._make(
                names,
                lambda name, fd: os.link(
                    target[-1], name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False
                ),
            )
        except FileNotFoundError:
            raise InvalidImage(missing) from None
        finally:
            os.close(source)

    def _symlink(self, member: Member, names: Names) -> None:
        if not member.target:
            raise InvalidImage(f"layer: {shown(member.name)}: a symbolic link to nothing")
        self._make(names, lambda name, fd: os.symlink(member.target, name, dir_fd=fd))
        self._tree.note_link(names, member.target)
        self._finish_node(member, names)

    def _node(self, member: Member, names: Names) -> None:
        major, minor = member.device
        if not (0 <= major <= _MAX_MAJOR and 0 <= minor <= _MAX_MINOR):
            raise InvalidImage(f"layer: {shown(member.name)}: no device has the number {major}:{minor}")
        if member.type == tar.CHAR and member.device == (0, 0):
            raise InvalidImage(f"layer: {shown(member.name)}: device 0:0 would be a whiteout of overlayfs")
        if member.type != tar.FIFO and not self._makes_devices:
            self.left_out.append(f"{shown(member.name)}: device")
            return
        device, mode = os.makedev(major, minor), _NODES[member.type] | 0o600
        try:
            self._make(names, lambda name, fd: os.mknod(name, mode, device, dir_fd=fd))
        except PermissionError as error:
            error.add_note("Hint: only real root makes devices; devices='skip' leaves them out")
            raise
        self._finish_node(member, names)

    def _make(self, names: Names, make: Callable[[bytes, int], _T]) -> _T:
        """Call `make` with a name and its directory, once more if something was there that had to go."""
        if not names:
            raise InvalidImage("layer: the root of a file system can only be a directory")
        parent = self._tree.directory(names[:-1])
        try:
            return make(names[-1], parent)
        except FileExistsError:
            self._directories.pop(names, None)
            self._tree.remove(names)
            return make(names[-1], self._tree.directory(names[:-1]))

    def _write(self, fd: int, member: Member) -> None:
        if member.data is None:
            for piece in self._reader.read(member.stored):
                _write_all(fd, piece)
            return
        for offset, length in member.data:
            os.lseek(fd, offset, os.SEEK_SET)
            for piece in self._reader.read(length):
                _write_all(fd, piece)
        os.ftruncate(fd, member.size)

    def _finish_node(self, member: Member, names: Names) -> None:
        """Give owner, permissions, attributes and times to what cannot be opened as a file."""
        parent = self._tree.directory(names[:-1])
        fd = os.open(names[-1], os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.chown(names[-1], *self._owner(member), dir_fd=parent, follow_symlinks=False)
            if member.type != tar.SYMLINK:  # whose permissions nobody asks for
                os.chmod(f"/proc/self/fd/{fd}", self._mode(member))
            self._set_xattrs(b"/proc/self/fd/%d/%s" % (parent, names[-1]), member)
            os.utime(names[-1], ns=_times(member), dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(fd)

    def _set_xattrs(self, file: int | bytes, member: Member) -> None:
        for name, value in member.xattrs.items():
            if name.startswith(OVERLAY_XATTRS):
                what = f"attribute {shown(name)!r} belongs to overlayfs, not into a layer"
                raise InvalidImage(f"layer: {shown(member.name)}: {what}")
            try:
                os.setxattr(file, name, value, follow_symlinks=isinstance(file, int))
            except OSError as error:
                if error.errno not in _XATTRS_REFUSED:
                    raise
                self.left_out.append(f"{shown(member.name)}: {shown(name)}")

    def _owner(self, member: Member) -> tuple[int, int]:
        return self._ownership.on_disk(member.uid, member.gid)

    def _mode(self, member: Member) -> int:
        """Return the permissions; who is set-user-ID to somebody else than the layer meant is not at all."""
        if not member.mode & (stat.S_ISUID | stat.S_ISGID):
            return member.mode
        keeps_user, keeps_group = self._ownership.keeps(member.uid, member.gid)
        lost = (0 if keeps_user else stat.S_ISUID) | (0 if keeps_group else stat.S_ISGID)
        return member.mode & ~lost


def _times(member: Member) -> tuple[int, int]:
    return member.mtime_ns, member.mtime_ns


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])
