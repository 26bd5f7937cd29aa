"""Blobs: files named by the digest of what is in them, so that a name can never come to mean other bytes.

Interface: `BlobStore.add_blob` and `new_blob` write, `open_blob` and `read_blob` read and verify. A blob
appears at once and whole, or not at all; what a writer that died has left is for `remove_unfinished`.

See: OCI image-spec, image-layout.md, "Blobs".
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cnlab.containers.images.descriptor import Descriptor, Platform, new_hash
from cnlab.errors import InvalidImage

MAX_JSON_BYTES = 4 << 20  # what registries and engines accept as a manifest
_CHUNK_BYTES = 1 << 20
_UNFINISHED = ".blob-"


class BlobWriter:
    """A blob being written: `write` takes bytes, `descriptor` is known when the block has ended."""

    descriptor: Descriptor

    def __init__(self, file: BinaryIO, algorithm: str = "sha256") -> None:
        self._file = file
        self._hash = hashlib.new(algorithm)
        self.size = 0  # bytes so far

    def write(self, data: bytes) -> int:
        """Append `data`."""
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    @property
    def digest(self) -> str:
        """The digest of what was written so far."""
        return f"{self._hash.name}:{self._hash.hexdigest()}"


class BlobStore:
    """The directory ``blobs`` in `path`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def blob_path(self, digest: str) -> Path:
        """Return where the blob with that digest is, or would be."""
        new_hash(digest)  # refuses what is none, such as a path
        return self.path.joinpath("blobs", *digest.split(":"))

    def has_blob(self, digest: str) -> bool:
        """Whether the blob is here."""
        return self.blob_path(digest).exists()

    def digests(self) -> set[str]:
        """Return the digests of all blobs that are here."""
        return {f"{path.parent.name}:{path.name}" for path in (self.path / "blobs").glob("*/*")}

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
            expected: refuse other content than this; hardly more than its size is read.

        Raises:
            InvalidImage: digest or size are not the expected ones; nothing is stored.
        """
        if isinstance(content, Path):
            with content.open("rb") as file:
                return self.add_blob(
                    file, media_type, annotations=annotations, platform=platform, expected=expected
                )
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        with self.new_blob(media_type, expected=expected) as blob:
            while chunk := source.read(_CHUNK_BYTES):
                blob.write(chunk)
                if expected is not None and blob.size > expected.size:
                    raise InvalidImage(f"blob {expected.digest} is longer than its {expected.size} bytes")
        found = blob.descriptor
        return Descriptor(media_type, found.digest, found.size, dict(annotations or {}), platform)

    def add_json(
        self,
        value: Mapping[str, Any],
        media_type: str,
        *,
        annotations: Mapping[str, str] | None = None,
        platform: Platform | None = None,
    ) -> Descriptor:
        """Store a JSON object, compact and in the order of its keys, and return the descriptor."""
        return self.add_blob(format_json(value), media_type, annotations=annotations, platform=platform)

    @contextlib.contextmanager
    def new_blob(self, media_type: str, *, expected: Descriptor | None = None) -> Iterator[BlobWriter]:
        """Store what is written in the block; `BlobWriter.descriptor` is there after it.

        When the block raises, or the blob is not the `expected` one, nothing is stored.
        """
        algorithm = expected.digest.partition(":")[0] if expected else "sha256"
        fd, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=self.path)
        try:
            with open(fd, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # tells `remove_unfinished` that somebody still writes
                blob = BlobWriter(file, algorithm)
                yield blob
                blob.descriptor = Descriptor(media_type, blob.digest, blob.size)
                if expected is not None:
                    _require_same(blob.descriptor, expected, "blob")
                file.flush()
                os.fchmod(fd, 0o644)
                target = self.blob_path(blob.digest)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(name, target)
        except BaseException:
            os.unlink(name)
            raise

    @contextlib.contextmanager
    def open_blob(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open a blob for reading, after its size and digest were verified.

        Raises:
            InvalidImage: the blob is not here, or is not what the descriptor says.
        """
        path = self.blob_path(descriptor.digest)
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise InvalidImage(f"{self.path} has no blob {descriptor.digest}") from None
        with file:
            _verify(file, descriptor, str(path))
            file.seek(0)
            yield file  # unbuffered: readers ask for large chunks

    def read_blob(self, descriptor: Descriptor, *, limit: int = MAX_JSON_BYTES) -> bytes:
        """Return a blob's bytes, verified; refuse one of more than `limit` bytes."""
        if descriptor.size > limit:
            raise InvalidImage(f"blob {descriptor.digest} has {descriptor.size} bytes, more than {limit}")
        with self.open_blob(descriptor) as file:
            return file.read()

    def read_json(self, descriptor: Descriptor) -> dict[str, Any]:
        """Return the JSON object in a blob, verified: an index, a manifest or a config."""
        return parse_json(self.read_blob(descriptor), f"blob {descriptor.digest}")

    def remove_unfinished(self) -> int:
        """Remove what writers that died have left, and return how many bytes that freed."""
        freed = 0
        for path in self.path.glob(f"{_UNFINISHED}*"):
            with path.open("rb") as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                freed += os.fstat(file.fileno()).st_size
                path.unlink()
        return freed


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """Read a JSON object of an image.

    Raises:
        InvalidImage: it is none; the message begins with `where`.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidImage(f"{where}: no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidImage(f"{where}: a JSON {type(value).__name__}, not an object")
    return value


def format_json(value: Mapping[str, Any]) -> bytes:
    """Write a JSON object as it is stored in a blob: compact, in the order of its keys, UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _verify(file: io.FileIO, descriptor: Descriptor, where: str) -> None:
    """Read the open file to its end and compare it with what it should be."""
    size = os.fstat(file.fileno()).st_size
    if size != descriptor.size:  # no need to read it
        raise InvalidImage(f"{where} has {size} bytes, not the {descriptor.size} of its descriptor")
    running = new_hash(descriptor.digest)
    while chunk := file.read(_CHUNK_BYTES):
        running.update(chunk)
    found = Descriptor(descriptor.media_type, f"{running.name}:{running.hexdigest()}", size)
    _require_same(found, descriptor, where)


def _require_same(found: Descriptor, expected: Descriptor, where: str) -> None:
    if found.size != expected.size:
        raise InvalidImage(f"{where} has {found.size} bytes, not the {expected.size} of its descriptor")
    if found.digest != expected.digest:
        raise InvalidImage(f"{where} has the digest {found.digest}, not {expected.digest}")
