"""The tree of cgroup v2: where it is, which controllers it offers, and how not to write in vain.

See: cgroups(7), "Cgroups v2 controllers" and "Cgroups v2 'no internal processes' rule".
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from cnlab import host
from cnlab.errors import MissingFeature
from cnlab.linux.processes import read_process

CONTROLLERS = ("cpu", "io", "memory", "pids")

_HINTS = {
    errno.EACCES: "pass parent= a group that is delegated to you, or use the kernel 'Cloud Native Lab'",
    errno.EBUSY: "only the root may have both processes of its own and controllers for its children",
    errno.EEXIST: "a group of that name exists; choose another name",
}


def root_of_cgroup2() -> Path:
    """Return where the cgroup v2 tree is mounted; on hybrid hosts that is ``/sys/fs/cgroup/unified``.

    Raises:
        MissingFeature: it is not mounted at all.
    """
    root = host.cgroup2_root()
    if root is None:
        raise MissingFeature("cgroup2", "no cgroup2 file system is mounted", hint=host.probe("cgroup2").hint)
    return root


def controllers(path: Path) -> tuple[str, ...]:
    """Return the controllers that the group at `path` has, and can offer to its children.

    Raises:
        MissingFeature: `path` is no directory of a cgroup v2 tree.
    """
    try:
        return tuple((path / "cgroup.controllers").read_text().split())
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFeature("cgroup2", f"{path} is not in a cgroup v2 tree; see cgroups(7)") from None


def cgroup_of(pid: int | str = "self") -> Path:
    """Return the directory of the cgroup v2 group that process `pid` is in."""
    return root_of_cgroup2() / read_process(pid).cgroup.lstrip("/")


def require_controllers(path: Path, files: Iterable[str]) -> None:
    """Go on only if the group at `path` has the controllers to which `files`, such as ``memory.max``, belong.

    Raises:
        MissingFeature: it lacks one; a write would limit nothing.
    """
    offered = controllers(path)
    lacking = {file.partition(".")[0] for file in files} & set(CONTROLLERS) - set(offered)
    if lacking:
        raise MissingFeature(
            "cgroup2",
            f"{path} offers {' '.join(offered) or 'no controller'}, not {' '.join(sorted(lacking))}",
            hint="version 1 holds that controller here, or a group above does not enable it; see cgroups(7)",
        )


def enable_controllers(parent: Path) -> None:
    """Let the children of `parent` have all of `CONTROLLERS` that it has itself."""
    enabled = (parent / "cgroup.subtree_control").read_text().split()
    wanted = [name for name in CONTROLLERS if name in controllers(parent) and name not in enabled]
    if wanted:
        write(parent / "cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))


def make(path: Path) -> None:
    """Make the group at `path`."""
    try:
        path.mkdir()
    except OSError as error:
        raise described(error, f"mkdir({path})") from None


def write(file: Path, line: str) -> None:
    """Write to a file that the kernel has made; never make one, as on a tmpfs that would be possible."""
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise described(error, f"write({file}, {line!r})") from None


def described(error: OSError, call: str) -> OSError:
    """Return `error` as ``call(object): reason``, with what to do about it."""
    number = error.errno or 0
    told = OSError(number, f"{call}: {os.strerror(number)}")
    if number in _HINTS:
        told.add_note(f"Hint: {_HINTS[number]}")
    return told
