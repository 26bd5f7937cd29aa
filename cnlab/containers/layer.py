"""Layers: tar archives of what changed in a root file system.

Interface: `apply` changes a directory as a layer says; `read_entries` tells what a layer holds.

A file that a lower layer has is deleted by an empty file ``.wh.NAME``, all that a directory held by
``.wh..wh..opq``. A layer is bytes from a stranger: `apply` writes nothing outside the directory that it is
given.

See: OCI image-spec, layer.md.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

from cnlab.containers.descriptor import Descriptor
from cnlab.linux.idmaps import IdMap


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an image: the blob, and the digest of what is in it when it is not compressed."""

    descriptor: Descriptor
    diff_id: str


@dataclass(frozen=True, slots=True)
class Limits:
    """When a layer is a bomb."""

    unpacked_bytes: int = 16 << 30  # holes of sparse files count
    entries: int = 1_000_000
    ratio: int = 200  # unpacked to compressed bytes, once it is past 64 MiB


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did: the diff ID it has seen, and what this machine or user could not do."""

    diff_id: str
    unpacked_bytes: int  # of the tar archive
    entries: int
    left_out: tuple[str, ...]  # such as "dev/null: device" or "bin/ping: xattr security.capability"


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a layer, as a reader sees it."""

    path: str  # without a leading slash; of a whiteout: the path that it hides
    kind: Literal["file", "directory", "symlink", "link", "char", "block", "fifo", "whiteout", "opaque"]
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
    not mapped becomes the caller's own. By default all ids that the caller's user namespace has stay as they
    are for root, and everything becomes the caller's own for everybody else.

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
    raise NotImplementedError


def read_entries(layer: BinaryIO) -> Iterator[Entry]:
    """Yield what a layer holds, in its order."""
    raise NotImplementedError


def diff_id_of(layer: BinaryIO) -> str:
    """Return the digest of a layer when it is not compressed."""
    raise NotImplementedError


def chain_id(diff_ids: Iterable[str]) -> str:
    """Return the name of a stack of layers, lowest first: what identifies the root file system they make.

    See: OCI image-spec, config.md, "Layer ChainID".
    """
    raise NotImplementedError


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the chain ID of each layer with all below it, lowest first."""
    raise NotImplementedError
