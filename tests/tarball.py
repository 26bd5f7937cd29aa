"""Layers made by Python's `tarfile`, which knows nothing of ours: ``layer(file("etc/motd", b"hi"), …)``."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

Member = tuple[tarfile.TarInfo, bytes]


def _member(kind: bytes, name: str, content: bytes = b"", **attributes: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def file(name: str, content: bytes = b"", **attributes: Any) -> Member:
    """A file; attributes are those of `tarfile.TarInfo`."""
    return _member(tarfile.REGTYPE, name, content, **attributes)


def directory(name: str, **attributes: Any) -> Member:
    """A directory."""
    return _member(tarfile.DIRTYPE, name, **{"mode": 0o755, **attributes})


def symlink(name: str, target: str, **attributes: Any) -> Member:
    """A symbolic link."""
    return _member(tarfile.SYMTYPE, name, linkname=target, **attributes)


def link(name: str, target: str, **attributes: Any) -> Member:
    """A hard link."""
    return _member(tarfile.LNKTYPE, name, linkname=target, **attributes)


def char_device(name: str, major: int, minor: int, **attributes: Any) -> Member:
    """A character device."""
    return _member(tarfile.CHRTYPE, name, devmajor=major, devminor=minor, **attributes)


def fifo(name: str, **attributes: Any) -> Member:
    """A named pipe."""
    return _member(tarfile.FIFOTYPE, name, **attributes)


def with_xattrs(member: Member, xattrs: Mapping[str, str]) -> Member:
    """A member with extended attributes."""
    member[0].pax_headers = {f"SCHILY.xattr.{name}": value for name, value in xattrs.items()}
    return member


def layer(*members: Member, compress: Callable[[bytes], bytes] = bytes) -> io.BytesIO:
    """An archive of members."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return io.BytesIO(compress(written.getvalue()))
