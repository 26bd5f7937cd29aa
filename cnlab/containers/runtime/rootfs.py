"""The container's file system: mounts in, old root out.

Everything here runs in the container's process, in its new mount namespace. Up to `pivot` the host's files
are there too, and links in the image may point at them: so a path in the container is looked up with the
container's root as root (``RESOLVE_IN_ROOT``) and then used through its descriptor.

See: runtime-spec, config.md, "Mounts"; mount_namespaces(7); pivot_root(2); openat2(2).
"""

from __future__ import annotations

import errno
import os
import stat

from cnlab.containers.runtime.mount_options import PROPAGATION, MountOptions
from cnlab.linux import syscalls
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
    MS_SHARED,
    MS_SLAVE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cnlab.containers.runtime.cgroups import Cgroups

_KEPT = {  # ST_... of statvfs(3) to MS_...: what a remount must repeat, or would take away
    os.ST_RDONLY: MS_RDONLY,
    os.ST_NOSUID: MS_NOSUID,
    os.ST_NODEV: MS_NODEV,
    os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: syscalls.MS_NOATIME,
    os.ST_NODIRATIME: syscalls.MS_NODIRATIME,
    os.ST_RELATIME: syscalls.MS_RELATIME,
}


class Rootfs:
    """The root of a container, seen from the host: `path`, and a descriptor of it once it is bound."""

    def __init__(self, path: str, bundle: str) -> None:
        self.path = path
        self.bundle = bundle
        self._fd = -1

    def bind(self, propagation: str | None) -> None:
        """Make the root a mount of its own, as pivot_root(2) asks, and settle what outside and inside share.

        Unless ``rootfsPropagation`` says otherwise, mounts made outside are seen inside, not the other way.
        """
        is_shared = propagation in ("shared", "rshared")
        is_private = propagation in ("private", "rprivate")
        syscalls.mount(
            "", "/", flags=(MS_SHARED if is_shared else MS_PRIVATE if is_private else MS_SLAVE) | MS_REC
        )
        if is_shared:
            _make_private_above(self.path)
        syscalls.mount(self.path, self.path, flags=MS_BIND | MS_REC)
        self._fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, path: str) -> int:
        """Return a descriptor (``O_PATH``) of `path` in the container."""
        return syscalls.openat2(self._fd, path, os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT)

    def exists(self, path: str) -> bool:
        """Whether there is something at `path` in the container."""
        try:
            os.close(self.open(path))
        except OSError:
            return False
        return True

    def make_directory(self, path: str) -> int:
        """Return a descriptor of the directory `path`, made with all above it where they are missing."""
        try:
            return self.open(path)
        except FileNotFoundError:
            pass
        parent_path, _, name = path.rstrip("/").rpartition("/")
        parent = self.make_directory(parent_path or "/")
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            return self.open(path)
        finally:
            os.close(parent)

    def make_file(self, path: str) -> int:
        """Return a descriptor of the file `path`, made empty if it is missing."""
        try:
            return self.open(path)
        except FileNotFoundError:
            pass
        parent_path, _, name = path.rpartition("/")
        parent = self.make_directory(parent_path or "/")
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
            return self.open(path)
        finally:
            os.close(parent)

    def mount(self, entry: dict[str, Any], cgroups: Cgroups | None, *, has_cgroup_namespace: bool) -> None:
        """Do what one entry of ``mounts`` says."""
        destination = "/" + entry["destination"].lstrip("/")
        options = MountOptions(entry.get("options") or [])
        try:
            if options.flags & MS_BIND:
                self._mount_bind(entry["source"], destination, options)
            elif entry.get("type") == "cgroup" and cgroups is not None:
                self._mount_cgroup(destination, options, cgroups, has_cgroup_namespace)
            else:
                self._mount_new(entry, destination, options)
            self._set_attributes(destination, options)
        except OSError as error:
            raise OSError(error.errno, f"mounts: {destination}: {error.strerror}") from None

    def _mount_bind(self, source: str, destination: str, options: MountOptions) -> None:
        source = os.path.join(self.bundle, source)
        is_directory = stat.S_ISDIR(os.stat(source).st_mode)
        with self._target(destination, is_directory=is_directory) as target:
            syscalls.mount(source, target.path, flags=options.flags & (MS_BIND | MS_REC))
        changed = options.flags & ~(MS_BIND | MS_REC)
        if changed:  # the kernel ignores the rest of the flags while it binds
            with self._target(destination, is_directory=is_directory) as target:
                remount(target.path, changed)

    def _mount_new(self, entry: dict[str, Any], destination: str, options: MountOptions) -> None:
        fs_type = entry.get("type") or "none"
        flags = options.flags
        if destination == "/dev":  # still to be filled; `finish` makes it read-only
            flags &= ~MS_RDONLY
        with self._target(destination, is_directory=True) as target:
            syscalls.mount(entry.get("source") or fs_type, target.path, fs_type, flags, options.data)
            if options.copies_up:
                with self._target(destination, is_directory=True) as mounted:
                    _copy_up(target.path, mounted.path)

    def _mount_cgroup(
        self, destination: str, options: MountOptions, cgroups: Cgroups, has_cgroup_namespace: bool
    ) -> None:
        if cgroups.version == 2:
            with self._target(destination, is_directory=True) as target:
                _, _, directory = cgroups.mounts()[0]
                if has_cgroup_namespace:
                    syscalls.mount("cgroup", target.path, "cgroup2", options.flags)
                    return
                syscalls.mount(directory, target.path, flags=MS_BIND | MS_REC)
            with self._target(destination, is_directory=True) as target:
                remount(target.path, options.flags)
            return
        shell = MS_NOSUID | MS_NODEV | MS_NOEXEC
        with self._target(destination, is_directory=True) as target:
            syscalls.mount("tmpfs", target.path, "tmpfs", shell, "mode=755")
        with self._target(destination, is_directory=True) as target:
            # The directory is new and empty: no link of the image can be in it.
            for name, data, directory in cgroups.mounts():
                path = f"{target.path}/{name}"
                os.mkdir(path)
                if has_cgroup_namespace:
                    syscalls.mount("cgroup", path, "cgroup", options.flags, data)
                else:
                    syscalls.mount(directory, path, flags=MS_BIND | MS_REC)
                    remount(path, options.flags)
            for link, name in cgroups.links():
                os.symlink(name, f"{target.path}/{link}")
            if options.flags & MS_RDONLY:
                remount(target.path, shell | MS_RDONLY)

    def _set_attributes(self, destination: str, options: MountOptions) -> None:
        if not options.propagation and not options.recursive:
            return
        with self._target(destination, is_directory=True) as target:
            for flags in options.propagation:
                syscalls.mount("", target.path, flags=flags)
            for attr_set, attr_clr in options.recursive:
                syscalls.mount_setattr(target.path, attr_set=attr_set, attr_clr=attr_clr, recursive=True)

    def _target(self, destination: str, *, is_directory: bool) -> _Target:
        make = self.make_directory if is_directory else self.make_file
        return _Target(make(destination))

    def pivot(self) -> None:
        """Make the container's root this process's root, and let go of the old one."""
        os.close(self._fd)
        old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.chdir(self.path)
        syscalls.pivot_root(".", ".")  # stacks the old root on the new one: no put_old directory needed
        os.fchdir(old)
        os.close(old)
        syscalls.mount("", ".", flags=MS_SLAVE | MS_REC)  # the host must not hear of the umount
        syscalls.umount(".", MNT_DETACH)
        os.chdir("/")


class _Target:
    """A mount point as a path that no link can bend: the descriptor's own entry in `/proc`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.path = f"/proc/self/fd/{fd}"

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)


def remount(path: str, flags: int) -> None:
    """Give the mount at `path` the `flags`, without taking away those that it has.

    In a user namespace of its own the kernel refuses to take them away (``mount_namespaces(7)``, "locked").
    """
    has = os.statvfs(path).f_flag
    kept = 0
    for bit, flag in _KEPT.items():
        if has & bit:
            kept |= flag
    syscalls.mount("", path, flags=MS_BIND | MS_REMOUNT | kept | flags)


def restrict(masked: Iterable[str], readonly: Iterable[str]) -> None:
    """After `Rootfs.pivot`, hide the paths `masked` and write-protect the paths `readonly` that exist."""
    for path in readonly:
        if os.path.exists(path):
            syscalls.mount(path, path, flags=MS_BIND | MS_REC)
            remount(path, MS_RDONLY)
    for path in masked:
        if os.path.isdir(path):
            syscalls.mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0k,nr_inodes=1")
        elif os.path.exists(path):
            _check_null()
            syscalls.mount("/dev/null", path, flags=MS_BIND)


def finish(*, propagation: str | None, readonly: bool, readonly_dev: bool) -> None:
    """Set the last attributes of the root and of ``/dev``, which had to be written until now."""
    if propagation:
        syscalls.mount("", "/", flags=PROPAGATION[propagation])
    if readonly_dev:
        remount("/dev", MS_RDONLY)
    if readonly:
        remount("/", MS_RDONLY)


def _check_null() -> None:
    """An image could bring a ``/dev/null`` of its own, and have a masked path show it."""
    device = os.stat("/dev/null").st_rdev
    if device != os.makedev(1, 3):
        raise PermissionError(1, "/dev/null of the container is not the null device")


def _make_private_above(path: str) -> None:
    """Make the mount private that `path` is in: pivot_root(2) takes no shared one."""
    while True:
        try:
            return syscalls.mount("", path, flags=MS_PRIVATE)
        except OSError as error:
            if error.errno != errno.EINVAL or path == "/":  # EINVAL: not where something is mounted
                raise
        path = os.path.dirname(path)


def _copy_up(source: str, target: str) -> None:
    """Copy the tree `source` into the empty directory `target`, with owners and modes."""
    for entry in os.scandir(source):
        info, copy = entry.stat(follow_symlinks=False), f"{target}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), copy)
        elif entry.is_dir():
            os.mkdir(copy)
            _copy_up(entry.path, copy)
        elif entry.is_file():
            with open(entry.path, "rb") as read, open(copy, "wb") as write:
                while chunk := read.read(1 << 20):
                    write.write(chunk)
        else:
            continue
        os.chown(copy, info.st_uid, info.st_gid, follow_symlinks=False)
        if not entry.is_symlink():
            os.chmod(copy, stat.S_IMODE(info.st_mode))
