"""All that can be told of a directory tree, so that two can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def facts(root: str | os.PathLike[str]) -> dict[str, tuple[object, ...]]:
    """Return for each path below `root` its type, permissions, owner, time, links, attributes and bytes.

    Times of directories are left out: every test that puts a file there changes them.
    """
    paths = (os.path.join(at, name) for at, names, files in os.walk(root) for name in names + files)
    return {os.path.relpath(path, root): _facts_of(path) for path in sorted(paths)}


def _facts_of(path: str) -> tuple[object, ...]:
    status = os.lstat(path)
    is_directory = stat.S_ISDIR(status.st_mode)
    metadata = (oct(status.st_mode), status.st_uid, status.st_gid, status.st_rdev)
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in _own_xattrs(path)}
    if is_directory:
        return (*metadata, xattrs)
    content: object = None
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return (*metadata, xattrs, status.st_nlink, int(status.st_mtime), content)


def _own_xattrs(path: str) -> list[str]:
    return [name for name in os.listxattr(path, follow_symlinks=False) if ".overlay." not in name]
