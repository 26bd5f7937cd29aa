"""Layers compressed and uncompressed, in chunks, by gzip, zstd or not at all.

Interface: `Uncompressed` reads a layer and knows its diff ID at the end; `Compressor` writes one.

See: OCI image-spec, layer.md, media types; RFC 1952 (gzip), RFC 8878 (zstd).
"""

import contextlib
import hashlib
import queue
import sys
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from cnlab.errors import InvalidImage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["none", "gzip", "zstd"]

_CHUNK_BYTES = 1 << 20
_CHUNKS_AHEAD = 8
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_REFUSED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
_GZIP_WBITS = 31  # a deflate stream within a gzip header and trailer
_GZIP_LEVEL, _ZSTD_LEVEL = 6, 3


@dataclass(frozen=True, slots=True)
class Limits:
    """When a layer is a bomb."""

    unpacked_bytes: int = 16 << 30  # of the archive, and of any file in it
    entries: int = 1_000_000
    ratio: int = 100  # unpacked to compressed bytes
    ratio_from_bytes: int = 1 << 30  # what unpacks to less may have any ratio


class Uncompressed:
    """The chunks of a layer without its compression, which is seen from the first bytes.

    A thread of its own reads ahead, so that inflating and writing go on at the same time.
    """

    def __init__(self, file: BinaryIO, limits: Limits | None = None) -> None:
        self._file = file
        self._limits = limits or Limits()
        self._hash = hashlib.sha256()
        self.compressed_bytes = 0  # that were read so far
        self.unpacked_bytes = 0  # that they have become

    @property
    def diff_id(self) -> str:
        """The digest of all chunks so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def chunks(self) -> Generator[bytes]:
        """Yield the chunks; close the generator to stop early."""
        return _ahead(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        head = self._read()
        for chunk in self._inflate(head):
            self._hash.update(chunk)
            self.unpacked_bytes += len(chunk)
            self._require_within_limits()
            yield chunk

    def _require_within_limits(self) -> None:
        limits, unpacked = self._limits, self.unpacked_bytes
        if unpacked > limits.unpacked_bytes:
            raise InvalidImage(f"layer unpacks to more than {limits.unpacked_bytes} bytes")
        if unpacked > max(limits.ratio_from_bytes, limits.ratio * self.compressed_bytes):
            have = f"{self.compressed_bytes} bytes unpack to {unpacked}"
            raise InvalidImage(f"layer: {have}, more than {limits.ratio} times as many")

    def _inflate(self, head: bytes) -> Iterator[bytes]:
        if head.startswith(_GZIP):
            return self._members(head, _Gzip)
        if head.startswith(_ZSTD):
            return self._members(head, zstd.ZstdDecompressor)
        for magic, name in _REFUSED.items():
            if head.startswith(magic):
                raise InvalidImage(f"layer is compressed by {name}; gzip, zstd or nothing is allowed")
        return self._plain(head)

    def _plain(self, chunk: bytes) -> Iterator[bytes]:
        while chunk:
            yield chunk
            chunk = self._read()

    def _members(self, data: bytes, new_decompressor: Callable[[], Any]) -> Iterator[bytes]:
        """Inflate one compressed stream after the other; zeros behind the last are padding."""
        while data:
            stream = new_decompressor()
            while not stream.eof:
                if not data and stream.needs_input:
                    data = self._read()
                    if not data:
                        raise InvalidImage(
                            f"layer ends within its compressed data, at {self.compressed_bytes}"
                        )
                try:
                    chunk = stream.decompress(data, _CHUNK_BYTES)
                except (zlib.error, zstd.ZstdError) as error:
                    raise InvalidImage(f"layer is damaged: {error}") from None
                data = b""
                if chunk:
                    yield chunk
            data = stream.unused_data.lstrip(b"\0")
            while not data and (more := self._read()):
                data = more.lstrip(b"\0")

    def _read(self) -> bytes:
        data = self._file.read(_CHUNK_BYTES // 4)
        self.compressed_bytes += len(data)
        return data


class _Gzip:
    """`zlib.decompressobj` with the interface of `ZstdDecompressor`: it keeps what it has not consumed."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_WBITS)
        self._is_full = False  # the last chunk took all the room it was given

    def decompress(self, data: bytes, max_length: int) -> bytes:
        chunk = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self._is_full = len(chunk) == max_length
        return chunk

    @property
    def needs_input(self) -> bool:
        return not self._is_full and not self._stream.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data


class Compressor:
    """Compress what is written and pass it on; the same input gives the same bytes."""

    def __init__(self, write: Callable[[bytes], object], compression: Compression) -> None:
        self._write = write
        self._stream: Any = None
        if compression == "gzip":  # with neither a name nor a time in its header
            self._stream = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
        elif compression == "zstd":
            self._stream = zstd.ZstdCompressor(_ZSTD_LEVEL)
        self._hash = hashlib.sha256()

    @property
    def diff_id(self) -> str:
        """The digest of what was written so far, before compression."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> None:
        """Take some uncompressed bytes."""
        self._hash.update(data)
        self._write(self._stream.compress(data) if self._stream else data)

    def finish(self) -> None:
        """Pass on what is still held back."""
        if self._stream:
            self._write(self._stream.flush())


def _ahead(chunks: Iterator[bytes]) -> Generator[bytes]:
    """Yield `chunks`, made some ahead of time by a thread."""
    made: queue.Queue[bytes | BaseException | None] = queue.Queue(_CHUNKS_AHEAD)
    is_over = threading.Event()

    def make() -> None:
        last: BaseException | None = None
        try:
            for chunk in chunks:
                made.put(chunk)
                if is_over.is_set():
                    return
        except BaseException as error:
            last = error
        made.put(last)

    thread = threading.Thread(target=make, name="layer reader", daemon=True)
    thread.start()
    try:
        while isinstance(chunk := made.get(), bytes):
            yield chunk
        if chunk is not None:
            raise chunk
    finally:
        is_over.set()
        while thread.is_alive():  # it may wait for room
            with contextlib.suppress(queue.Empty):
                made.get(timeout=0.01)
        thread.join()
