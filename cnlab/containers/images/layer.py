"""Layers: tar archives of what changed in a root file system.

Interface: `apply` changes a directory as a layer says; `read_entries` tells what a layer holds.

A file that a lower layer has is deleted by an empty file ``.wh.NAME``, all that a directory held by
``.wh..wh..opq``. A layer is bytes from a stranger: `apply` writes nothing outside the directory that it is
given.

See: OCI image-spec, layer.md.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

from cnlab.containers.images import tar
from cnlab.containers.images.compression import Limits, Uncompressed
from cnlab.containers.images.descriptor import Descriptor, digest_of
from cnlab.containers.images.extraction import OPAQUE, WHITEOUT, Extraction
from cnlab.containers.images.ownership import Ownership
from cnlab.containers.images.paths import shown, split
from cnlab.containers.images.tar import Member
from cnlab.containers.images.tar_reader import TarReader
from cnlab.errors import InvalidImage
from cnlab.linux.idmaps import IdMap

__all__ = [
    "Applied",
    "Entry",
    "Layer",
    "Limits",
    "apply",
    "chain_id",
    "chain_ids",
    "diff_id_of",
    "read_entries",
]

Kind = Literal["file", "directory", "symlink", "link", "char", "block", "fifo", "whiteout", "opaque"]
_KINDS: dict[bytes, Kind] = {
    tar.FILE: "file",
    tar.SPARSE: "file",
    tar.LINK: "link",
    tar.SYMLINK: "symlink",
    tar.CHAR: "char",
    tar.BLOCK_DEVICE: "block",
    tar.DIRECTORY: "directory",
    tar.FIFO: "fifo",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an image: the blob, and the digest of what is in it when it is not compressed."""

    descriptor: Descriptor
    diff_id: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did: the diff ID it has seen, and what this machine or user could not do."""

    diff_id: str
    unpacked_bytes: int  # of the tar archive
    entries: int
    left_out: tuple[str, ...]  # such as "dev/null: device" or "bin/ping: security.capability"


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a layer, as a reader sees it."""

    path: str  # without a leading slash; of a whiteout: the path that it hides
    kind: Kind
    mode: int  # permission bits
    uid: int
    gid: int
    size: int  # bytes
    mtime: int  # seconds since 1970
    target: str = ""  # of a symbolic or hard link


def apply(
    layer: BinaryIO,
    rootfs: str | os.PathLike[str],
    *,
    diff_id: str = "",
    uid_map: Sequence[IdMap] | None = None,
    gid_map: Sequence[IdMap] | None = None,
    devices: Literal["create", "skip"] = "create",
    limits: Limits | None = None,
) -> Applied:
    """Change the directory `rootfs` as a layer says; gzip, zstd or plain is seen from its first bytes.

    Ownership: an id of the layer becomes the id that the map's `inside` ids have `outside`; an id that is
    not mapped becomes the caller's own, and takes set-user-ID with it. By default all ids that the caller's
    user namespace has stay as they are for root, and everything becomes the caller's own for everybody else.

    Args:
        layer: the layer, from where the file stands; `Layout.open_blob` has verified it.
        rootfs: an existing directory, empty or with the layers below applied.
        diff_id: refuse a layer with another one.
        uid_map: user ids of the layer, and what they become.
        gid_map: group ids, likewise.
        devices: make device nodes, which the kernel may refuse, or leave them out.
        limits: when to stop; by default `Limits()`.

    Raises:
        InvalidImage: the layer leads out of `rootfs`, breaks the format or a limit, or is not `diff_id`.
        OSError: the kernel refused.
    """
    limits = limits or Limits()
    source = Uncompressed(layer, limits)
    with contextlib.closing(source.chunks()) as chunks:
        reader = TarReader(chunks)
        ownership = Ownership(uid_map, gid_map)
        with Extraction(rootfs, reader, ownership, makes_devices=devices == "create") as extraction:
            room = _Room(limits)
            for member in reader:
                room.take(member)
                extraction.take(member)
            extraction.finish()
    if diff_id and source.diff_id != diff_id:
        raise InvalidImage(f"layer has the diff ID {source.diff_id}, not {diff_id}")
    return Applied(source.diff_id, source.unpacked_bytes, room.entries, tuple(extraction.left_out))


class _Room:
    """What is left of the limits: a bomb is refused before it is written."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0  # with holes of sparse files, which take no room in the archive
        self.entries = 0

    def take(self, member: Member) -> None:
        self.entries += 1
        self._bytes += member.size
        if self.entries > self._limits.entries:
            raise InvalidImage(f"layer: more than {self._limits.entries} entries")
        if self._bytes > self._limits.unpacked_bytes:
            many = f"files of more than {self._limits.unpacked_bytes} bytes"
            raise InvalidImage(f"layer: with {shown(member.name)}, {many}")


def read_entries(layer: BinaryIO) -> Iterator[Entry]:
    """Yield what a layer holds, in its order."""
    with contextlib.closing(Uncompressed(layer).chunks()) as chunks:
        for member in TarReader(chunks):
            yield _entry_of(member)


def _entry_of(member: Member) -> Entry:
    *directory, name = split(member.name) or (b"",)
    kind = _KINDS[member.type]
    if name == OPAQUE:
        kind, names = "opaque", directory
    elif name.startswith(WHITEOUT):
        kind, names = "whiteout", [*directory, name.removeprefix(WHITEOUT)]
    else:
        names = [*directory, name]
    path, target = os.fsdecode(b"/".join(names)), os.fsdecode(member.target)
    mtime = member.mtime_ns // 1_000_000_000
    return Entry(path, kind, member.mode, member.uid, member.gid, member.size, mtime, target)


def diff_id_of(layer: BinaryIO) -> str:
    """Return the digest of a layer when it is not compressed."""
    source = Uncompressed(layer)
    for _ in source.chunks():
        pass
    return source.diff_id


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the name of each layer with all below it, lowest first: of the root file system they make.

    See: OCI image-spec, config.md, "Layer ChainID".
    """
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)


def chain_id(diff_ids: Iterable[str]) -> str:
    """Return the name of a whole stack of layers, lowest first; of none it is empty."""
    return (chain_ids(diff_ids) or ("",))[-1]
