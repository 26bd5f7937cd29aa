import bz2
import gzip
import hashlib
import io
import lzma
import subprocess
import threading
import zlib

import pytest

from cnlab.containers.images.compression import Compressor, Limits, Uncompressed, zstd
from cnlab.errors import InvalidImage

TEXT = b"".join(b"%d\n" % number for number in range(400_000))  # more than two chunks


def uncompressed(data, limits=None):
    source = Uncompressed(io.BytesIO(data), limits)
    return b"".join(source.chunks()), source


@pytest.mark.parametrize(
    "compress",
    [
        bytes,
        gzip.compress,
        zstd.compress,
        lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
        lambda data: zstd.compress(data[:100]) + zstd.compress(data[100:]),
        lambda data: gzip.compress(data) + bytes(1000),
    ],
    ids=["plain", "gzip", "zstd", "two gzip members", "two zstd frames", "gzip with padding"],
)
def test_layer_is_the_same_however_it_is_compressed(compress):
    """Media types lie; the first bytes do not. Tools that work in parallel write several members."""
    data, source = uncompressed(compress(TEXT))

    assert data == TEXT
    assert source.diff_id == f"sha256:{hashlib.sha256(TEXT).hexdigest()}"
    assert (source.unpacked_bytes, source.compressed_bytes) == (len(TEXT), len(compress(TEXT)))


@pytest.mark.parametrize(
    "program", [["gzip", "-c"], ["gzip", "-9c"], ["zstd", "-c"], ["zstd", "-9", "--long=27"]]
)
@pytest.mark.needs_programs("zstd")
def test_what_the_real_programs_compress_is_read(program):
    """They choose other block sizes and windows than the libraries do."""
    said = subprocess.run(program, input=TEXT, capture_output=True, check=True).stdout

    assert uncompressed(said)[0] == TEXT


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_layer_that_ends_too_early_is_refused(compress):
    """A download that broke off looks like this."""
    with pytest.raises(InvalidImage, match="ends within its compressed data"):
        uncompressed(compress(TEXT)[:-3])


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: zstd.compress(data, options={201: 1})])
def test_layer_with_a_flipped_bit_is_refused(compress):
    """Both formats carry a checksum of the content: gzip always, zstd if asked."""
    data = bytearray(compress(TEXT))
    data[-6] ^= 1

    with pytest.raises(InvalidImage, match="layer is damaged"):
        uncompressed(bytes(data))


@pytest.mark.parametrize(("compress", "name"), [(lzma.compress, "xz"), (bz2.compress, "bzip2")])
def test_compression_that_the_specification_lacks_is_named(compress, name):
    """Docker reads these too; a layer that only Docker reads is not portable."""
    with pytest.raises(InvalidImage, match=f"compressed by {name}; gzip, zstd or nothing"):
        uncompressed(compress(b"x"))


def test_bytes_behind_the_compressed_data_are_refused():
    """What one reader ignores another may take for content."""
    with pytest.raises(InvalidImage, match="damaged"):
        uncompressed(gzip.compress(TEXT) + b"more")


def test_bomb_is_stopped_at_the_limit():
    """A megabyte becomes a gigabyte; the reader must not have to hold or hash it all."""
    bomb = zstd.compress(bytes(64 << 20))
    source = Uncompressed(io.BytesIO(bomb), Limits(unpacked_bytes=8 << 20))

    with pytest.raises(InvalidImage, match="unpacks to more than 8388608 bytes"):
        list(source.chunks())
    assert source.unpacked_bytes <= 9 << 20


def test_bomb_is_known_by_its_ratio_before_the_limit():
    """Files that people make do not shrink a hundredfold; small ones of zeros may."""
    bomb, honest = gzip.compress(bytes(16 << 20)), gzip.compress(bytes(1 << 20))
    limits = Limits(ratio=100, ratio_from_bytes=4 << 20)

    assert uncompressed(honest, limits)[0] == bytes(1 << 20)
    with pytest.raises(InvalidImage, match="more than 100 times as many"):
        uncompressed(bomb, limits)


def test_reader_that_stops_early_leaves_no_thread():
    """A layer is refused in the middle; the thread that reads ahead must not wait for room for ever."""
    before = threading.active_count()
    chunks = Uncompressed(io.BytesIO(gzip.compress(bytes(64 << 20), 1))).chunks()
    next(chunks)
    during = threading.active_count()
    chunks.close()

    assert (during, threading.active_count()) == (before + 1, before)


def test_error_of_the_file_arrives_where_it_is_read():
    """The thread that reads ahead must not swallow it."""

    class Failing(io.RawIOBase):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        list(Uncompressed(Failing()).chunks())


@pytest.mark.parametrize(("compression", "program"), [("gzip", "gzip"), ("zstd", "zstd")])
@pytest.mark.needs_programs("zstd")
def test_what_we_compress_the_real_programs_read(compression, program):
    """And they find its checksum right."""
    written = io.BytesIO()
    compressor = Compressor(written.write, compression)
    for start in range(0, len(TEXT), 100_000):
        compressor.write(TEXT[start : start + 100_000])
    compressor.finish()
    said = subprocess.run([program, "-dc"], input=written.getvalue(), capture_output=True, check=True)

    assert said.stdout == TEXT
    assert compressor.diff_id == f"sha256:{hashlib.sha256(TEXT).hexdigest()}"


def test_gzip_header_holds_neither_a_name_nor_a_time():
    """They would make another digest of the same layer each second."""
    written = io.BytesIO()
    compressor = Compressor(written.write, "gzip")
    compressor.write(b"x")
    compressor.finish()
    flags, time = written.getvalue()[3], written.getvalue()[4:8]

    assert (flags, time) == (0, bytes(4))
    assert zlib.decompress(written.getvalue(), 31) == b"x"


def test_layer_that_is_not_compressed_passes_unchanged():
    """Its digest and its diff ID are the same."""
    written = io.BytesIO()
    compressor = Compressor(written.write, "none")
    compressor.write(TEXT)
    compressor.finish()

    assert written.getvalue() == TEXT
