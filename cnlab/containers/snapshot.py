"""Snapshots: layers unpacked once, and stacked by overlayfs for each container.

    layers/<hex of a chain ID>/   what that layer changes, as overlayfs writes it: whiteouts are devices 0/0
    active/<random>/              upper, work and rootfs of a container that runs

Interface: ``with store.mounted(image) as snapshot`` gives a writable root file system whose changes
`Snapshot.commit` turns into a layer; after the block they are gone.

Needs CAP_SYS_ADMIN in a user namespace, as mount(2) does. See: the kernel's overlayfs guide.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cnlab.containers.diff import Compression
from cnlab.containers.image import Image
from cnlab.containers.layer import Layer
from cnlab.containers.layout import Layout


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A mounted root file system; `os.fspath` gives `rootfs`."""

    rootfs: Path  # the overlay
    upper: Path  # what was changed
    lowers: tuple[Path, ...]  # the unpacked layers, topmost first

    def __fspath__(self) -> str:
        return os.fspath(self.rootfs)

    def commit(
        self, layout: Layout, *, compression: Compression = "gzip", clamp_mtime: int | None = None
    ) -> Layer:
        """Store what was changed so far as a layer; see `diff.diff_upper`."""
        raise NotImplementedError


class SnapshotStore:
    """Unpacked layers below a directory, on a file system that may be an overlay's upper one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Make or open the store, and remove what runs that died have left in it."""
        raise NotImplementedError

    def prepare(self, image: Image) -> tuple[Path, ...]:
        """Unpack the layers that are not here yet; return the directories of all, topmost first."""
        raise NotImplementedError

    @contextlib.contextmanager
    def mounted(self, image: Image, *, readonly: bool = False) -> Iterator[Snapshot]:
        """Show the image as a directory of its own, writable unless `readonly`, for as long as the block."""
        raise NotImplementedError

    def prune(self, keep: Iterable[Image] = ()) -> int:
        """Remove the layers that no image of `keep` and no mounted snapshot needs; return the bytes freed."""
        raise NotImplementedError


def temporary_store() -> contextlib.AbstractContextManager[SnapshotStore]:
    """Make a store where overlayfs can write, for as long as the block.

    Raises:
        MissingFeature: there is no such place, or the caller may not mount.
    """
    raise NotImplementedError
