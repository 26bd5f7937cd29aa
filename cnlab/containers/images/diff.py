"""From two directory trees to a layer, the same bytes each time.

Interface: `diff` stores in a layout what changed from one tree to another; `diff_upper` does so for an
overlay's upper directory, without walking the trees below. `changes` and `upper_changes` tell the same as a
list.

A file counts as changed if its metadata or its bytes are other ones; times are compared by the second, which
is what a layer keeps, and those of directories not at all, since every change in a directory changes them.
Directories above a change are in the layer too, so that it says whose they are.

See: OCI image-spec, layer.md, "Creating"; the kernel's overlayfs guide, "whiteouts and opaque directories".
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cnlab.containers.images.changeset import kept_xattrs, writing_layer
from cnlab.containers.images.compression import Compression
from cnlab.containers.images.layer import Layer
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.overlay import is_opaque, is_whiteout
from cnlab.containers.images.ownership import Ownership
from cnlab.linux.idmaps import IdMap

StrPath = str | os.PathLike[str]
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs; of a directory that was replaced by another kind of file, that path alone."""

    kind: Literal["add", "modify", "delete"]
    path: str  # relative to the root


def changes(lower: StrPath | None, upper: StrPath) -> list[Change]:
    """Return what changed from the tree `lower` to the tree `upper`, sorted; no `lower` is an empty one."""
    lowers = [] if lower is None else [os.fspath(lower)]
    return list(_compare(os.fspath(upper), lowers, "", is_overlay=False))


def upper_changes(upper: StrPath, *, lowers: Sequence[StrPath] = ()) -> list[Change]:
    """Return what an overlay's upper directory changes in its lower ones, topmost first."""
    return list(_compare(os.fspath(upper), [os.fspath(path) for path in lowers], "", is_overlay=True))


def diff(
    lower: StrPath | None,
    upper: StrPath,
    layout: Layout,
    *,
    compression: Compression = "gzip",
    clamp_mtime: int | None = None,
    uid_map: Sequence[IdMap] | None = None,
    gid_map: Sequence[IdMap] | None = None,
) -> Layer:
    """Store a layer that turns the tree `lower` into the tree `upper`; no `lower` is an empty one.

    Args:
        lower: the tree before.
        upper: the tree after.
        layout: where the blob goes.
        compression: of the blob; the diff ID is the same with each.
        clamp_mtime: seconds since 1970; no file in the layer is younger.
        uid_map: which user id on disk (`outside`) is which in the layer (`inside`); see `layer.apply`.
        gid_map: group ids, likewise.
    """
    found = changes(lower, upper)
    return _store(found, upper, layout, compression, clamp_mtime, Ownership(uid_map, gid_map))


def diff_upper(
    upper: StrPath,
    layout: Layout,
    *,
    lowers: Sequence[StrPath] = (),
    compression: Compression = "gzip",
    clamp_mtime: int | None = None,
    uid_map: Sequence[IdMap] | None = None,
    gid_map: Sequence[IdMap] | None = None,
) -> Layer:
    """Store a layer that does what an overlay's upper directory does to the `lowers`, topmost first.

    It is the layer that `diff` makes from the merged directories; the keywords are those of `diff`.
    """
    found = upper_changes(upper, lowers=lowers)
    return _store(found, upper, layout, compression, clamp_mtime, Ownership(uid_map, gid_map))


def _store(
    found: Sequence[Change],
    root: StrPath,
    layout: Layout,
    compression: Compression,
    clamp_mtime: int | None,
    ownership: Ownership,
) -> Layer:
    with writing_layer(layout, compression, ownership, clamp_mtime=clamp_mtime) as writer:
        for change in found:
            if change.kind == "delete":
                writer.add_whiteout(change.path)
            else:
                writer.add(root, change.path)
    return writer.layer


def _compare(upper: str, lowers: Sequence[str], path: str, *, is_overlay: bool) -> Iterator[Change]:
    """Yield what changed below the directory `path` of the roots; the directory itself is the caller's.

    Args:
        upper: a directory.
        lowers: the directories that it is merged with, topmost first: one, or those of an overlay.
        path: of all these, below their roots.
        is_overlay: whether `upper` holds only what changed, and whiteouts.
    """
    prefix = f"{path}/" if path else ""
    names = set(os.listdir(upper))
    is_overlay = is_overlay and not is_opaque(upper)  # nothing below an opaque directory is merged either
    # What an overlay's upper directory does not mention is unchanged.
    below = set() if is_overlay else {name for directory in lowers for name in os.listdir(directory)}
    kept: list[tuple[str, list[str]]] = []
    for name in sorted(names | below, key=os.fsencode):
        before = _versions(lowers, name)
        if name in names and not is_whiteout(os.lstat(f"{upper}/{name}")):
            kept.append((name, before))
        elif before:  # whiteouts come first: layer.md asks for it
            yield Change("delete", f"{prefix}{name}")
    for name, before in kept:
        yield from _compare_one(f"{upper}/{name}", before, f"{prefix}{name}", is_overlay=is_overlay)


def _compare_one(after: str, before: Sequence[str], path: str, *, is_overlay: bool) -> Iterator[Change]:
    """Yield what changed at `path` and below it; `before` holds its lower versions, topmost first."""
    status = os.lstat(after)
    kind: Literal["add", "modify"] = "modify" if before else "add"
    if not stat.S_ISDIR(status.st_mode):
        if not before or _differs(before[0], after):
            yield Change(kind, path)
        return
    directories = [old for old in before if stat.S_ISDIR(os.lstat(old).st_mode)]
    inside = list(_compare(after, directories, path, is_overlay=is_overlay))
    if not directories or inside or _differs(directories[0], after):
        yield Change(kind, path)
    yield from inside


def _versions(lowers: Sequence[str], name: str) -> list[str]:
    """Return where a name is in merged directories, topmost first: one file, or directories that merge.

    The rules are overlayfs': a whiteout ends the search, so does an opaque directory, and a file hides all
    that is below it.
    """
    found: list[str] = []
    for directory in lowers:
        path = f"{directory}/{name}"
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_whiteout(status) or (found and not is_directory):
            break
        found.append(path)
        if not is_directory or is_opaque(path):
            break
    return found


def _differs(before: str, after: str) -> bool:
    """Whether two files, or two directories as such, are not the same to who reads them."""
    old, new = os.lstat(before), os.lstat(after)
    if os.path.samestat(old, new):
        return False
    if (old.st_mode, old.st_uid, old.st_gid) != (new.st_mode, new.st_uid, new.st_gid):
        return True
    if kept_xattrs(before) != kept_xattrs(after):
        return True
    if stat.S_ISDIR(new.st_mode):
        return False
    if (old.st_size, old.st_rdev, int(old.st_mtime)) != (new.st_size, new.st_rdev, int(new.st_mtime)):
        return True
    if stat.S_ISLNK(new.st_mode):
        return os.readlink(before) != os.readlink(after)
    return stat.S_ISREG(new.st_mode) and not _same_bytes(before, after)


def _same_bytes(before: str, after: str) -> bool:
    with open(before, "rb", buffering=0) as old, open(after, "rb", buffering=0) as new:
        while (chunk := old.read(_CHUNK_BYTES)) == new.read(_CHUNK_BYTES):
            if not chunk:
                return True
    return False
