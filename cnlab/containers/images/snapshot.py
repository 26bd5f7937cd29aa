"""Snapshots: layers unpacked once, and stacked by overlayfs for each container.

    layers/<hex of a chain ID>/  what that layer changes, as overlayfs writes it: whiteouts are devices 0/0
    active/<random>/             upper, work and rootfs of a mounted snapshot; lowers names its layers

Interface: ``with store.mounted(image) as snapshot`` gives a writable root file system whose changes
`Snapshot.commit` turns into a layer; after the block they are gone.

A layer is applied to a mount of the layers below it, so that the kernel itself writes whiteouts, and knows
where a link of a lower layer leads.

Needs CAP_SYS_ADMIN in a user namespace, as mount(2) does. See: the kernel's overlayfs guide.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cnlab.containers.images.compression import Compression
from cnlab.containers.images.diff import diff_upper
from cnlab.containers.images.image import Image, open_layer
from cnlab.containers.images.layer import Layer, apply
from cnlab.containers.images.layout import Layout
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.linux import syscalls
from cnlab.linux.idmaps import IdMap, read_uid_map
from cnlab.linux.mounts import overlay_mount

_ALL_IDS = [IdMap(0, 0, 0xFFFF_FFFF)]
_MAX_OPTION_BYTES = 3500  # mount(2) takes a page, in which other options stand too
_PLACES = (tempfile.gettempdir(), "/var/tmp", "/dev/shm", "/run")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A mounted root file system; `os.fspath` gives `rootfs`."""

    rootfs: Path  # the overlay
    upper: Path | None  # what was changed; None if it is read-only
    lowers: tuple[Path, ...]  # the unpacked layers, topmost first

    def __fspath__(self) -> str:
        return os.fspath(self.rootfs)

    def commit(
        self, layout: Layout, *, compression: Compression = "gzip", clamp_mtime: int | None = None
    ) -> Layer:
        """Store what was changed so far as a layer; see `diff.diff_upper`."""
        if self.upper is None:
            raise InvalidValue(f"{self.rootfs} is read-only: it has no changes that could become a layer")
        return diff_upper(
            self.upper, layout, lowers=self.lowers, compression=compression, clamp_mtime=clamp_mtime
        )


class SnapshotStore:
    """Unpacked layers below a directory, on a file system that may be an overlay's upper one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Make or open the store, and remove what runs that died have left in it."""
        self.path = Path(path).resolve()
        self._layers, self._active = self.path / "layers", self.path / "active"
        for directory in (self._layers, self._active, self.path / "empty"):
            directory.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._sweep()

    def prepare(self, image: Image) -> tuple[Path, ...]:
        """Unpack the layers that are not here yet; return the directories of all, topmost first."""
        with self._locked():
            return self._prepare(image)

    def _prepare(self, image: Image) -> tuple[Path, ...]:
        lowers: list[Path] = []
        for layer, chain_id in zip(image.layers, image.chain_ids, strict=True):
            directory = self._layers / chain_id.partition(":")[2]
            if not directory.exists():
                self._unpack(image.layout, layer, lowers, directory)
            lowers.insert(0, directory)
        return tuple(lowers) or (self.path / "empty",)

    def _unpack(self, layout: Layout, layer: Layer, lowers: Sequence[Path], directory: Path) -> None:
        """Make `directory` what the layer changes in those below it."""
        devices: Literal["create", "skip"] = "create" if _is_real_root() else "skip"
        with self._scratch() as scratch, open_layer(layout, layer) as file:
            changed = _like(scratch / "changed", lowers)
            with contextlib.ExitStack() as stack:
                rootfs = changed
                if lowers:
                    rootfs = stack.enter_context(_stacked(scratch, lowers, changed))
                apply(file, rootfs, diff_id=layer.diff_id, devices=devices)
            changed.rename(directory)

    @contextlib.contextmanager
    def mounted(self, image: Image, *, readonly: bool = False) -> Iterator[Snapshot]:
        """Show the image as a directory of its own, writable unless `readonly`, for as long as the block."""
        with contextlib.ExitStack() as stack:
            with self._locked():
                lowers = self._prepare(image)
                scratch = stack.enter_context(self._scratch())
                (scratch / "lowers").write_text("\n".join(lower.name for lower in lowers))
            upper = None if readonly else _like(scratch / "upper", lowers)
            below = lowers if upper else (*lowers, self.path / "empty")  # an overlay needs two directories
            rootfs = stack.enter_context(_stacked(scratch, below, upper))
            yield Snapshot(rootfs, upper, lowers)

    def prune(self, keep: Iterable[Image] = ()) -> int:
        """Remove the layers that no image of `keep` and no mounted snapshot needs; return the bytes freed."""
        with self._locked():
            self._sweep()
            needed = {chain_id.partition(":")[2] for image in keep for chain_id in image.chain_ids}
            for file in self._active.glob("*/lowers"):
                needed |= set(file.read_text().split())
            unneeded = [path for path in self._layers.iterdir() if path.name not in needed]
            freed = sum(_bytes_in(path) for path in unneeded)
            for path in unneeded:
                shutil.rmtree(path)
            return freed

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only one, in any process, who adds or removes directories of the store."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Make a directory in ``active`` that is gone after the block; its lock tells that we live."""
        path = Path(tempfile.mkdtemp(dir=self._active))
        path.chmod(0o755)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield path
        finally:
            shutil.rmtree(path)
            os.close(fd)

    def _sweep(self) -> None:
        """Remove the directories in ``active`` whose makers have died."""
        for path in self._active.iterdir():
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(OSError):  # it was not mounted
                    syscalls.umount(path / "rootfs", syscalls.MNT_DETACH)
                shutil.rmtree(path)
            except BlockingIOError:  # its maker lives
                pass
            finally:
                os.close(fd)


@contextlib.contextmanager
def _stacked(scratch: Path, lowers: Sequence[Path], upper: Path | None) -> Iterator[Path]:
    """Mount an overlay in the directory `scratch`."""
    rootfs, work = scratch / "rootfs", scratch / "work"
    rootfs.mkdir()
    work.mkdir()
    # userxattr: who is not real root may not write trusted attributes. The others keep an upper directory
    # whole: one that redirects, or has only a file's metadata, says nothing without the layers below.
    options = ["redirect_dir=off", "metacopy=off"] if _is_real_root() else ["userxattr"]
    with contextlib.ExitStack() as stack:
        names: Sequence[str] = [os.fspath(lower) for lower in lowers]
        if sum(map(len, names)) > _MAX_OPTION_BYTES:
            names = [f"/proc/self/fd/{_held(stack, lower)}" for lower in lowers]
        mount = overlay_mount(rootfs, lower=names, upper=upper, work=upper and work, options=options)
        yield stack.enter_context(mount)


def _held(stack: contextlib.ExitStack, path: Path) -> int:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    stack.callback(os.close, fd)
    return fd


def _like(path: Path, lowers: Sequence[Path]) -> Path:
    """Make a directory to lay over others: it is what is seen of the root, so it must look like theirs."""
    path.mkdir(0o755)
    if lowers:
        status = lowers[0].stat()
        os.chown(path, status.st_uid, status.st_gid)
        os.chmod(path, stat.S_IMODE(status.st_mode))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return path


def _is_real_root() -> bool:
    return os.geteuid() == 0 and read_uid_map() == _ALL_IDS


def _bytes_in(directory: Path) -> int:
    paths = (os.path.join(at, name) for at, _, names in os.walk(directory) for name in names)
    return sum(os.lstat(path).st_size for path in paths)


@contextlib.contextmanager
def temporary_store() -> Iterator[SnapshotStore]:
    """Make a store where overlayfs can write, for as long as the block.

    Raises:
        MissingFeature: there is no such place, or the caller may not mount.
    """
    reasons: dict[str, None] = {}
    places = [place for place in dict.fromkeys(_PLACES) if os.access(place, os.W_OK | os.X_OK)]
    for place in places:
        with tempfile.TemporaryDirectory(prefix="cnlab-snapshots-", dir=place) as directory:
            store = SnapshotStore(directory)
            try:
                _probe(store)
            except OSError as error:
                reasons[os.strerror(error.errno or 0)] = None
                continue
            yield store
            return
    raise MissingFeature(
        "overlay",
        f"user id {os.geteuid()} cannot mount one below {', '.join(places)}: {', '.join(reasons)}",
        hint="be root, use the private kernel, or enter a user namespace of your own",
    )


def _probe(store: SnapshotStore) -> None:
    """Raise `OSError` unless an overlay can be mounted there and hide a lower directory."""
    with store._scratch() as scratch:
        lower, upper = scratch / "lower", scratch / "upper"
        (lower / "directory").mkdir(parents=True)
        upper.mkdir()
        with _stacked(scratch, [lower], upper) as merged:
            (merged / "directory").rmdir()
            (merged / "directory").mkdir()
