"""The trees of control groups, as a runtime meets them: version 1, version 2, or some of each.

See: cgroups(7); `cnlab.linux.cgroups` tells the same to a reader, and this to a program that must start fast.
"""

from __future__ import annotations

import errno
import os

from cnlab.errors import InvalidValue, MissingFeature

OWN_PARENT = "cnlab"
"""The group that relative paths of containers are put into."""

_LIMITING = {"cpu", "memory", "pids"}


class Tree:
    """A mounted hierarchy: ``cpu,cpuacct`` of version 1, or the one of version 2, whose name is empty."""

    __slots__ = ("mount_point", "name", "version")

    def __init__(self, version: int, mount_point: str, name: str) -> None:
        self.version = version
        self.mount_point = mount_point
        self.name = name

    @property
    def basename(self) -> str:
        """Of its mount point, as a container is to find it below ``/sys/fs/cgroup``."""
        return os.path.basename(self.mount_point) if self.version == 1 else ""

    @property
    def options(self) -> str:
        """For mount(2), to attach the same tree elsewhere: ``cpu,cpuacct``, or ``none,name=systemd``."""
        return f"none,{self.name}" if self.name.startswith("name=") else self.name

    @property
    def controllers(self) -> tuple[str, ...]:
        """Of version 1; those of version 2 differ from group to group."""
        return tuple(self.name.split(","))

    def is_open(self) -> bool:
        """Whether the caller may make groups at its root."""
        return os.access(self.mount_point, os.W_OK)

    def own_group(self) -> str:
        """Return the directory of the caller's own group, which may be delegated to it."""
        for line in read("/proc/self/cgroup").splitlines():
            _, name, path = line.split(":", 2)
            if name == self.name and os.path.isdir(self.mount_point + path):
                return (self.mount_point + path).rstrip("/")
        return self.mount_point

    def make(self, directory: str) -> None:
        """Make a group, ready for processes and for children; its limits are those above it."""
        if self.version == 2:
            enable_controllers(os.path.dirname(directory))
        try:
            os.mkdir(directory)
        except OSError as error:
            raise OSError(error.errno, f"mkdir({directory}): {error.strerror}") from None
        if "cpuset" in self.controllers:
            inherit_cpuset(directory)


def find_trees() -> list[Tree]:
    """Return the trees whose controllers can limit something: version 2 alone, or those of version 1.

    Raises:
        MissingFeature: none is mounted.
    """
    trees = parse_trees(read("/proc/self/mountinfo"))
    unified = [tree for tree in trees if tree.version == 2][:1]
    legacy = [tree for tree in trees if tree.version == 1]
    if unified and (
        not legacy or _LIMITING & {*read(f"{unified[0].mount_point}/cgroup.controllers").split()}
    ):
        return unified
    if not legacy:
        raise MissingFeature("cgroup", "no cgroup file system is mounted", hint="see mount(8), cgroups(7)")
    return legacy


def parse_trees(mountinfo: str) -> list[Tree]:
    """Read a mount table; of several mounts of a tree the first counts."""
    found: dict[str, Tree] = {}
    for line in mountinfo.splitlines():
        place, _, described = line.partition(" - ")
        if not described.startswith("cgroup"):
            continue
        fs_type, _, options = described.split(" ", 2)
        mount_point = place.split(" ")[4]
        if fs_type == "cgroup2":
            found.setdefault("", Tree(2, mount_point, ""))
        elif fs_type == "cgroup":
            words = options.rpartition(" ")[2].split(",")
            name = ",".join(word for word in words if word not in ("rw", "ro", "xattr", "clone_children"))
            found.setdefault(name, Tree(1, mount_point, name))
    return list(found.values())


def group_path(path: str | None, container_id: str) -> str:
    """Return the place of a container's group: absolute as it is, anything else to be put somewhere.

    Raises:
        InvalidValue: it leaves the tree, or is a slice of systemd's.
    """
    place = path or f"{OWN_PARENT}-{container_id}"
    if place.count(":") == 2 and "/" not in place:
        raise InvalidValue(
            f"cgroupsPath {place!r} asks systemd for a scope; expected a path: use the cgroupfs driver"
            " (dockerd --exec-opt native.cgroupdriver=cgroupfs, podman --cgroup-manager cgroupfs)"
        )
    names = [name for name in place.split("/") if name]
    if not names or ".." in names or "." in names or "\n" in place:
        raise InvalidValue(
            f"cgroupsPath {place!r} is no group of its own; expected a path like '/cnlab/demo'"
        )
    if path and not path.startswith("/"):
        return "/".join((OWN_PARENT, *names))
    return "/".join(("", *names) if path else names)


def enable_controllers(directory: str) -> None:
    """Let the children of a version 2 group have all controllers that it has, as far as the kernel lets it.

    A controller that stays behind is missed by the limit that needs it, which then says so. A group other
    than the root passes none on while it has processes: enabled there, `pids` or `cpu` would make its
    children groups of threads, where no process may enter.
    """
    if os.path.exists(f"{directory}/cgroup.type") and read(f"{directory}/cgroup.procs"):
        return
    enabled = read(f"{directory}/cgroup.subtree_control").split()
    for name in read(f"{directory}/cgroup.controllers").split():
        if name not in enabled:
            try:
                write(f"{directory}/cgroup.subtree_control", f"+{name}")
            except OSError as error:
                if error.errno not in (
                    errno.EBUSY,
                    errno.EACCES,
                    errno.EPERM,
                    errno.EINVAL,
                    errno.EOPNOTSUPP,
                ):
                    raise


def inherit_cpuset(directory: str) -> None:
    """Copy processors and memory nodes from above: without them no process may enter a version 1 cpuset."""
    above = os.path.dirname(directory)
    for file in ("cpuset.cpus", "cpuset.mems"):
        write(f"{directory}/{file}", read(f"{above}/{file}").strip())


def read(path: str) -> str:
    """Return the text of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = b""
        while part := os.read(fd, 1 << 16):
            found += part
    finally:
        os.close(fd)
    return found.decode()


def write(path: str, *lines: str) -> None:
    """Write to a file that the kernel has made, line by line; never make one."""
    line = ""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for line in lines:
                os.write(fd, line.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"write({path}, {line!r}): {os.strerror(error.errno or 0)}") from None
