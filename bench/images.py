"""Unpacking a layer beside GNU tar: the same archive, the same kind of compression, the same file system.

A layer of 200 MB in twenty files, and one of twenty thousand small files. Ours verifies the layer's digest
and its diff ID on the way, which GNU tar does not do.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cnlab.containers.images.compression import Compression
from cnlab.containers.images.diff import diff
from cnlab.containers.images.image import Image, new_image, unpack
from cnlab.containers.images.layer import Layer
from cnlab.containers.images.layout import Layout

ROUNDS = 5
PROMISED = 1.5  # times as long as GNU tar
LARGE_FILES, LARGE_BYTES = 20, 10_000_000
DIRECTORIES, FILES_EACH, SMALL_BYTES = 200, 100, 1_000
COMPRESSIONS: dict[Compression, list[str]] = {"gzip": ["--gzip"], "zstd": ["--zstd"], "none": []}


def main() -> None:
    """Measure and print."""
    with _place() as place:
        layout = Layout.create(place / "images")
        for name, make in (("200 MB in 20 files", _large), (f"{DIRECTORIES * FILES_EACH} files", _small)):
            source = place / "source"
            make(source)
            for compression, options in COMPRESSIONS.items():
                layer = diff(None, source, layout, compression=compression)
                image = new_image(layout, layers=[layer])
                _compare(f"unpack {name}, {compression}", place, image, layer, options)
            shutil.rmtree(source)


@contextmanager
def _place() -> Iterator[Path]:
    """Yield a directory in memory if there is room: a disk would be what is measured."""
    for parent in ("/dev/shm", tempfile.gettempdir()):
        if os.access(parent, os.W_OK) and shutil.disk_usage(parent).free > 2 << 30:
            with tempfile.TemporaryDirectory(prefix="cnlab-bench-", dir=parent) as place:
                yield Path(place)
            return
    raise SystemExit("no directory with 2 GB free to unpack layers in")


def _words(seed: int, size: int) -> bytes:
    """Return text that compresses about as programs do."""
    chosen = random.Random(seed)
    vocabulary = [b"%x" % chosen.getrandbits(64) for _ in range(4000)]
    return b" ".join(chosen.choices(vocabulary, k=size // 16 + 1)).ljust(size)[:size]


def _large(root: Path) -> None:
    root.mkdir()
    for number in range(LARGE_FILES):
        (root / f"file{number}").write_bytes(_words(number, LARGE_BYTES))


def _small(root: Path) -> None:
    text = _words(0, SMALL_BYTES * FILES_EACH)
    for number in range(DIRECTORIES):
        directory = root / f"directory{number}"
        directory.mkdir(parents=True)
        for part in range(FILES_EACH):
            start = (part + number) % FILES_EACH * SMALL_BYTES
            (directory / f"file{part}").write_bytes(text[start : start + SMALL_BYTES])


def _compare(what: str, place: Path, image: Image, layer: Layer, options: list[str]) -> None:
    blob = image.layout.blob_path(layer.descriptor.digest)
    target = place / "target"

    def ours() -> None:
        unpack(image, target)

    def theirs() -> None:
        target.mkdir()
        subprocess.run(["tar", "-C", target, *options, "-xpf", blob], check=True)

    measured: dict[Callable[[], None], list[float]] = {ours: [], theirs: []}
    for _ in range(ROUNDS):
        for action, times in measured.items():
            started = time.monotonic()
            action()
            times.append(time.monotonic() - started)
            shutil.rmtree(target)
    our_s, their_s = (statistics.median(times) for times in measured.values())
    size = f"{layer.descriptor.size / 1e6:.0f} MB"
    ratio = f"{our_s / their_s:5.2f} x tar, of the promised {PROMISED}"
    figures = f"ours {our_s:5.2f} s  GNU tar {their_s:5.2f} s  {ratio}"
    print(f"{what:34} ({size:>6})  {figures}")
