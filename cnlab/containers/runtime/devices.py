"""Device nodes and links in the container's ``/dev``.

See: runtime-spec, config-linux.md, "Devices" and "Default Devices"; runtime-linux.md, "Dev symbolic links".
"""

from __future__ import annotations

import os
import stat

from cnlab.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cnlab.containers.runtime.rootfs import Rootfs

DEFAULT = tuple(
    {"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor}
    for name, major, minor in (
        *(("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)),
        ("tty", 5, 0),
    )
)
LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
)
_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def make_all(rootfs: Rootfs, devices: list[dict[str, Any]], *, by_bind_mount: bool) -> None:
    """Supply the default devices and those of ``linux.devices``, then the links.

    Args:
        rootfs: where.
        devices: ``linux.devices``.
        by_bind_mount: show the host's nodes, since in a user namespace nobody may make any.
    """
    mask = os.umask(0)
    try:
        configured = {device["path"] for device in devices}
        for device in DEFAULT:
            if device["path"] not in configured:
                _make(rootfs, device, by_bind_mount=by_bind_mount, replaces=True)
        for device in devices:
            _make(rootfs, device, by_bind_mount=by_bind_mount, replaces=False)
        _link(rootfs)
    finally:
        os.umask(mask)


def _make(rootfs: Rootfs, device: dict[str, Any], *, by_bind_mount: bool, replaces: bool) -> None:
    """Supply one device, unless it is there; what else is there may give way only to a default device."""
    path = os.path.normpath("/" + device["path"])
    directory, name = os.path.split(path)
    kind = _TYPES[device["type"]]
    number = os.makedev(device.get("major", 0), device.get("minor", 0))
    found = _find(rootfs, path)
    if found is not None:
        if stat.S_IFMT(found.st_mode) == kind and found.st_rdev == number:
            return
        if not replaces:
            raise FileExistsError(17, f"linux.devices: {path}: something else is there")
    if found is not None or (by_bind_mount and kind != stat.S_IFIFO):
        target = rootfs.make_file(path)
        try:
            syscalls.mount(path, f"/proc/self/fd/{target}", flags=syscalls.MS_BIND)
        finally:
            os.close(target)
        return
    parent = rootfs.make_directory(directory)
    try:
        os.mknod(name, kind | device.get("fileMode", 0o666) & 0o7777, number, dir_fd=parent)
        uid, gid = device.get("uid") or 0, device.get("gid") or 0
        if uid or gid:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(parent)


def _find(rootfs: Rootfs, path: str) -> os.stat_result | None:
    """Return what is at `path` in the container, if anything is."""
    try:
        fd = rootfs.open(path)
    except FileNotFoundError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _link(rootfs: Rootfs) -> None:
    dev = rootfs.make_directory("/dev")
    try:
        for source, name in LINKS if rootfs.exists("/proc/self") else ():
            if not rootfs.exists(f"/dev/{name}"):
                _symlink(source, name, dev)
        if rootfs.exists("/dev/pts"):
            _unlink("ptmx", dev)
            _symlink("pts/ptmx", "ptmx", dev)
    finally:
        os.close(dev)


def _symlink(source: str, name: str, directory: int) -> None:
    try:
        os.symlink(source, name, dir_fd=directory)
    except FileExistsError:
        return


def _unlink(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        return  # it is not there, or it is a mount, and then somebody has seen to it
