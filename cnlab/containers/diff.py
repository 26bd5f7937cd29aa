"""From two directory trees to a layer, the same bytes each time.

Interface: `diff` stores in a layout what changed from one tree to another; `diff_upper` does so for an
overlay's upper directory, without reading the trees below. `changes` and `upper_changes` tell the same as a
list.

See: OCI image-spec, layer.md, "Creating"; the kernel's overlayfs guide, "whiteouts and opaque directories".
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cnlab.containers.layer import Layer
from cnlab.containers.layout import Layout
from cnlab.linux.idmaps import IdMap

Compression = Literal["none", "gzip", "zstd"]


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs."""

    kind: Literal["add", "modify", "delete"]
    path: str  # relative to the root


def changes(lower: str | os.PathLike[str] | None, upper: str | os.PathLike[str]) -> list[Change]:
    """Return what changed from the tree `lower` to the tree `upper`, sorted; no `lower` is an empty one."""
    raise NotImplementedError


def upper_changes(
    upper: str | os.PathLike[str], *, lowers: Sequence[str | os.PathLike[str]] = ()
) -> list[Change]:
    """Return what an overlay's upper directory changes in its lower ones, topmost first."""
    raise NotImplementedError


def diff(
    lower: str | os.PathLike[str] | None,
    upper: str | os.PathLike[str],
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
        upper: the tree after; for both, file systems mounted in them are not entered.
        layout: where the blob goes.
        compression: of the blob; the diff ID is the same with each.
        clamp_mtime: seconds since 1970; no file in the layer is younger.
        uid_map: which user id on disk (`outside`) is which in the layer (`inside`); see `layer.apply`.
        gid_map: group ids, likewise.
    """
    raise NotImplementedError


def diff_upper(
    upper: str | os.PathLike[str],
    layout: Layout,
    *,
    lowers: Sequence[str | os.PathLike[str]] = (),
    compression: Compression = "gzip",
    clamp_mtime: int | None = None,
    uid_map: Sequence[IdMap] | None = None,
    gid_map: Sequence[IdMap] | None = None,
) -> Layer:
    """Store a layer that does what an overlay's upper directory does to the `lowers`, topmost first."""
    raise NotImplementedError
