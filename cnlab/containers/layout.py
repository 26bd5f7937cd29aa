"""An OCI image layout: a directory with blobs named by their digest, and an index that gives names to some.

    oci-layout                   {"imageLayoutVersion": "1.0.0"}
    index.json                   an index, whose descriptors may carry a name
    blobs/sha256/<64 hex digits>

Interface: `Layout.add_blob` and `Layout.new_blob` write, `open_blob` and `read_blob` read and verify; `tag`,
`resolve` and `remove` deal in names; `collect_garbage` deletes what no name leads to. A blob appears at once
and whole, or not at all.

See: OCI image-spec, image-layout.md.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from cnlab.containers.descriptor import (
    Descriptor,
    Platform,
)

REF_NAME = "org.opencontainers.image.ref.name"
MAX_JSON_BYTES = 4 << 20  # what registries and engines accept as a manifest
_MAX_DEPTH = 8  # indexes may point at indexes
_CHUNK_BYTES = 1 << 20


class Layout:
    """An image layout on disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open an existing layout.

        Raises:
            InvalidImage: the directory is no layout, or one of another version.
        """
        raise NotImplementedError

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Self:
        """Make an empty layout at `path`, with the directories above; one that is there already is opened."""
        raise NotImplementedError

    @property
    def index(self) -> dict[str, Any]:
        """What ``index.json`` says now."""
        raise NotImplementedError

    # Blobs

    def blob_path(self, digest: str) -> Path:
        """Return where the blob with that digest is, or would be."""
        raise NotImplementedError

    def has_blob(self, digest: str) -> bool:
        """Whether the blob is here."""
        raise NotImplementedError

    def add_blob(
        self,
        content: bytes | BinaryIO | Path,
        media_type: str,
        *,
        annotations: Mapping[str, str] | None = None,
        platform: Platform | None = None,
        expected: Descriptor | None = None,
    ) -> Descriptor:
        """Store bytes, or what a file holds from where it stands, and return the descriptor.

        Args:
            content: the bytes, an open binary file, or the path of a file.
            media_type: what the bytes are.
            annotations: of the descriptor returned.
            platform: of the descriptor returned.
            expected: refuse other content than this; no more than its size is read.

        Raises:
            InvalidImage: digest or size are not the expected ones; nothing is stored.
        """
        raise NotImplementedError

    def add_json(
        self,
        value: Mapping[str, Any],
        media_type: str,
        *,
        annotations: Mapping[str, str] | None = None,
        platform: Platform | None = None,
    ) -> Descriptor:
        """Store a JSON object, compact and in the order of its keys, and return the descriptor."""
        raise NotImplementedError

    def new_blob(self, media_type: str) -> contextlib.AbstractContextManager["BlobWriter"]:
        """Store what is written in the block; `BlobWriter.descriptor` is there after it.

        When the block raises, nothing is stored.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def open_blob(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open a blob for reading, after its size and digest were verified.

        Raises:
            InvalidImage: the blob is not here, or is not what the descriptor says.
        """
        raise NotImplementedError

    def read_blob(self, descriptor: Descriptor, *, limit: int = MAX_JSON_BYTES) -> bytes:
        """Return a blob's bytes, verified; refuse one of more than `limit` bytes."""
        raise NotImplementedError

    def read_json(self, descriptor: Descriptor) -> dict[str, Any]:
        """Return the JSON object in a blob, verified: an index, a manifest or a config."""
        raise NotImplementedError

    def manifest(self, descriptor: Descriptor) -> dict[str, Any]:
        """Return the image manifest that `descriptor` points at; refuse what is none."""
        raise NotImplementedError

    def config(self, descriptor: Descriptor) -> dict[str, Any]:
        """Return the image config of the manifest that `descriptor` points at."""
        raise NotImplementedError

    # Names

    def tags(self) -> dict[str, Descriptor]:
        """Return the names in the index, and what each points at."""
        raise NotImplementedError

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let `name` point at a manifest or index in this layout, and no longer at what it pointed at."""
        raise NotImplementedError

    def resolve(self, reference: str = "", *, platform: Platform | None = None) -> Descriptor:
        """Return the descriptor of the image manifest that a name or digest leads to.

        Args:
            reference: a tag of this layout or a ``sha256:…`` digest; empty where there is but one.
            platform: which image of a multi-platform index; by default this machine's.

        Raises:
            InvalidImage: there is no such name, or no image for that platform; the message has the list.
        """
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Forget a name; `collect_garbage` deletes what only it led to."""
        raise NotImplementedError

    def collect_garbage(self) -> int:
        """Delete the blobs that nothing in the index leads to, and return how many bytes that freed."""
        raise NotImplementedError


class BlobWriter:
    """A blob being written: `write` takes bytes, `descriptor` is known when the block has ended."""

    descriptor: Descriptor
