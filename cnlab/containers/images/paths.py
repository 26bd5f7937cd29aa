"""Paths in a layer: bytes from a stranger, as seen from the root of a file system."""

from cnlab.errors import InvalidImage

_MAX_DEPTH = 256  # directories in each other; `rooted` removes them by a function that calls itself

Names = tuple[bytes, ...]
"""A path as seen from the root of a tree; the root itself has none."""


def split(path: bytes) -> Names:
    """Return the names in a path, as seen from the root; refuse what climbs.

    Raises:
        InvalidImage: the path has a ``..`` or a NUL, or is too deep.
    """
    names = tuple([name for name in path.split(b"/") if name not in (b"", b".")])
    if b".." in names:
        raise InvalidImage(f"layer: {shown(path)}: '..' leads out of the root file system")
    if b"\0" in path or len(names) > _MAX_DEPTH:
        raise InvalidImage(f"layer: {shown(path)[:80]}: no path that a file can have")
    return names


def shown(path: bytes) -> str:
    """Return a path for a message."""
    return path.decode(errors="backslashreplace")
