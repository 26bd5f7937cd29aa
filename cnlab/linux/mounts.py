"""Mounts: the table that ``/proc/PID/mountinfo`` shows, and ways to add to it that undo themselves.

See: mount(2), mount_namespaces(7), proc_pid_mountinfo(5), pivot_root(2).
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnlab.linux import procfs, syscalls
from cnlab.linux.syscalls import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    mount_id: int
    parent_id: int
    device: str  # "major:minor"
    root: str  # the directory of the file system that is seen at mount_point
    mount_point: str
    options: tuple[str, ...]
    propagation: tuple[str, ...]  # such as "shared:5" or "master:1"; empty is private
    fs_type: str
    source: str
    super_options: tuple[str, ...]

    @property
    def is_readonly(self) -> bool:
        """Whether this mount, or the file system as a whole, refuses writes."""
        return "ro" in self.options or "ro" in self.super_options


def parse_mountinfo(text: str) -> list[Mount]:
    """Read the text of a mountinfo file, oldest mount first.

    Zero or more optional fields stand before a lone hyphen; blanks, tabs, newlines and backslashes in
    names are octal escapes.
    """
    return [_parse_line(line) for line in text.splitlines() if line]


def _parse_line(line: str) -> Mount:
    fields = line.split(" ")
    hyphen = fields.index("-", 6)
    mount_id, parent_id, device, root, mount_point, options = fields[:6]
    fs_type, source, super_options = fields[hyphen + 1 : hyphen + 4]
    return Mount(
        mount_id=int(mount_id),
        parent_id=int(parent_id),
        device=device,
        root=_unescape(root),
        mount_point=_unescape(mount_point),
        options=tuple(options.split(",")),
        propagation=tuple(fields[6:hyphen]),
        fs_type=_unescape(fs_type),
        source=_unescape(source),
        super_options=tuple(_unescape(super_options).split(",")),
    )


def _unescape(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), name)


def read_mountinfo(pid: int | str = "self") -> list[Mount]:
    """Return the mounts that process `pid` sees."""
    return parse_mountinfo(procfs.read(pid, "mountinfo", errors="surrogateescape"))


@contextlib.contextmanager
def _mounted(
    source: StrPath, target: StrPath, fs_type: str = "", flags: int = 0, data: str = ""
) -> Iterator[Path]:
    target = Path(target)
    syscalls.mount(source, target, fs_type, flags, data)
    try:
        yield target
    finally:
        syscalls.umount(target, MNT_DETACH)


@contextlib.contextmanager
def bind_mount(
    source: StrPath, target: StrPath, *, readonly: bool = False, recursive: bool = False
) -> Iterator[Path]:
    """Show the file or directory `source` at `target` as well.

    The kernel ignores ``MS_RDONLY`` while it binds: read-only takes a second mount call.
    """
    with _mounted(source, target, flags=MS_BIND | (MS_REC if recursive else 0)) as mounted:
        if readonly:
            syscalls.mount("", mounted, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
        yield mounted


@contextlib.contextmanager
def overlay_mount(
    target: StrPath,
    *,
    lower: Sequence[StrPath],
    upper: StrPath | None = None,
    work: StrPath | None = None,
    options: Sequence[str] = (),
) -> Iterator[Path]:
    """Show the directories `lower`, topmost first, as one; changes go to `upper`.

    Without `upper` the mount is read-only, and needs two lower directories. `work` is an empty directory on
    the file system of `upper`. Further `options` are overlayfs' own, such as ``userxattr``.

    See: the kernel's overlayfs guide.
    """
    data = "lowerdir=" + ":".join(_escape_overlay(directory) for directory in lower)
    if upper is not None and work is not None:
        data += f",upperdir={_escape_overlay(upper)},workdir={_escape_overlay(work)}"
    data = ",".join((data, *options))
    with _mounted("overlay", target, "overlay", data=data) as mounted:
        yield mounted


def _escape_overlay(path: StrPath) -> str:
    return re.sub(r"([\\,:])", r"\\\1", os.fspath(path))


@contextlib.contextmanager
def tmpfs(target: StrPath, *, size_bytes: int | None = None, mode: int = 0o755) -> Iterator[Path]:
    """Mount an empty file system that lives in memory."""
    data = f"mode={mode:o}" + ("" if size_bytes is None else f",size={size_bytes}")
    with _mounted("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, data) as mounted:
        yield mounted


@contextlib.contextmanager
def proc_mount(target: StrPath = "/proc") -> Iterator[Path]:
    """Mount the ``/proc`` of the caller's pid namespace."""
    with _mounted("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC) as mounted:
        yield mounted


def make_private(path: StrPath = "/") -> None:
    """Stop mounts below `path` from being copied to and from other mount namespaces."""
    syscalls.mount("", path, flags=MS_REC | MS_PRIVATE)


def pivot_root(new_root: StrPath) -> None:
    """Make `new_root` the root of this mount namespace and let go of the old one.

    Unlike after chroot(2) there is nothing above the new root to climb to. Call it in a mount namespace of
    your own.
    """
    make_private("/")  # the kernel refuses where it would have to tell other namespaces
    syscalls.mount(new_root, new_root, flags=MS_BIND | MS_REC)  # the new root must be a mount point
    os.chdir(new_root)
    syscalls.pivot_root(".", ".")  # stacks the old root on the new one: no put_old directory needed
    syscalls.umount(".", MNT_DETACH)
    os.chdir("/")
