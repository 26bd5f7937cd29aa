"""Write a layer: tar members out of files, in the order given, into a blob.

Interface: ``with writing_layer(layout, …) as writer:`` and in it `LayerWriter.add` and `add_whiteout`; after
the block `LayerWriter.layer` is the result.

Nothing goes into it that differs from run to run: no user names, no access times, no fractions of a second.

See: OCI image-spec, layer.md, "Creating"; https://reproducible-builds.org/docs/archives.
"""

import contextlib
import os
import posixpath
import stat
import sys
from collections.abc import Callable, Iterator

from cnlab.containers.images import tar
from cnlab.containers.images.compression import Compression, Compressor
from cnlab.containers.images.descriptor import MEDIA_TYPE_LAYER, MEDIA_TYPE_LAYER_GZIP, MEDIA_TYPE_LAYER_ZSTD
from cnlab.containers.images.layer import Layer
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.overlay import XATTR_PREFIXES, xattr_names
from cnlab.containers.images.ownership import Ownership
from cnlab.containers.images.tar import Member
from cnlab.errors import InvalidImage

MEDIA_TYPES: dict[Compression, str] = {
    "none": MEDIA_TYPE_LAYER,
    "gzip": MEDIA_TYPE_LAYER_GZIP,
    "zstd": MEDIA_TYPE_LAYER_ZSTD,
}
_CHUNK_BYTES = 1 << 20
_NS = 1_000_000_000
_TYPES = {
    stat.S_IFREG: tar.FILE,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHAR,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFIFO: tar.FIFO,
}


def kept_xattrs(path: str) -> dict[bytes, bytes]:
    """Return the extended attributes that belong into a layer; others are the machine's, or overlayfs'."""
    names = [
        name
        for name in xattr_names(path)
        if name.startswith(("user.", "security.capability")) and not name.startswith(XATTR_PREFIXES)
    ]
    return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}


@contextlib.contextmanager
def writing_layer(
    layout: Layout, compression: Compression, ownership: Ownership, *, clamp_mtime: int | None = None
) -> Iterator["LayerWriter"]:
    """Store the layer that is written in the block; `LayerWriter.layer` is there after it."""
    with layout.new_blob(MEDIA_TYPES[compression]) as blob:
        out = Compressor(blob.write, compression)
        writer = LayerWriter(out.write, ownership, clamp_mtime)
        yield writer
        out.write(tar.END)
        out.finish()
    writer.layer = Layer(blob.descriptor, out.diff_id)


class LayerWriter:
    """A layer in the making."""

    layer: Layer

    def __init__(
        self, write: Callable[[bytes], object], ownership: Ownership, clamp_mtime: int | None
    ) -> None:
        self._write = write
        self._ownership = ownership
        self._youngest_ns = (sys.maxsize if clamp_mtime is None else clamp_mtime) * _NS
        self._links: dict[tuple[int, int], bytes] = {}  # the first path of each file that has several

    def add(self, root: str | os.PathLike[str], path: str) -> None:
        """Add the file at `path` below `root`; sockets, which nothing can be made of, are left out."""
        if any(name.startswith(".wh.") for name in path.split("/")):
            raise InvalidImage(
                f"{path}: a layer cannot hold a name that begins with .wh., it is a whiteout's"
            )
        source = os.path.join(root, path)
        status = os.lstat(source)
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return
        member = self._member(path, source, status, kind)
        if kind == tar.FILE:
            first = self._links.get((status.st_dev, status.st_ino))
            if first is not None:
                member.type, member.target, member.size, member.xattrs = tar.LINK, first, 0, {}
            elif status.st_nlink > 1:
                self._links[status.st_dev, status.st_ino] = member.name
        self._write(tar.header(member))
        if member.type == tar.FILE:
            self._copy(source, member.size)

    def add_whiteout(self, path: str) -> None:
        """Add the marker that hides `path` of lower layers."""
        directory, name = posixpath.split(path)
        marker = os.fsencode(posixpath.join(directory, f".wh.{name}"))
        self._write(tar.header(Member(marker, tar.FILE, mode=0o600, uid=0, gid=0, size=0, mtime_ns=0)))

    def _member(self, path: str, source: str, status: os.stat_result, kind: bytes) -> Member:
        uid, gid = self._ownership.in_layer(status.st_uid, status.st_gid)
        is_device = kind in (tar.CHAR, tar.BLOCK_DEVICE)
        return Member(
            name=os.fsencode(path) + (b"/" if kind == tar.DIRECTORY else b""),
            type=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=uid,
            gid=gid,
            size=status.st_size if kind == tar.FILE else 0,
            mtime_ns=min(status.st_mtime_ns // _NS * _NS, self._youngest_ns),
            target=os.fsencode(os.readlink(source)) if kind == tar.SYMLINK else b"",
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
            xattrs=kept_xattrs(source),
        )

    def _copy(self, source: str, size: int) -> None:
        left = size
        with open(source, "rb", buffering=0) as file:
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                self._write(chunk)
                left -= len(chunk)
        if left:
            raise InvalidImage(f"{source} became shorter while it was read")
        self._write(tar.padding(size))
