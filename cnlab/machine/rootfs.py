"""What of the host's file system the guest sees, and how its root is put together from that.

The host decides (`host_view`), confines User-Mode Linux to it (`HostView.ruleset`), and the guest builds its
root from the same list (`assemble`): system directories and the Python environment under an overlay, so that
everything in them can be changed and nothing of the change stays; the notebook's directory as it is, so that
work is kept.

See: hostfs in the kernel's UML guide; overlayfs.rst; pivot_root(2); landlock(7).
"""

import os
import site
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cnlab
from cnlab.errors import MachineError
from cnlab.linux import syscalls
from cnlab.linux.landlock import Ruleset

_SYSTEM = ("/usr", "/etc", "/opt")  # and what /bin, /lib, ... are where they are not links into /usr
_TOP_LEVEL = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_FRESH = (
    "/dev",
    "/home",
    "/mnt",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/var/lib",
    "/var/log",
    "/var/tmp",
)
_NEVER_WRITABLE = frozenset(
    ("/", *_SYSTEM, *_TOP_LEVEL, "/dev", "/home", "/proc", "/run", "/sys", "/tmp", "/var")
)


@dataclass(frozen=True, slots=True)
class HostView:
    """The host's directories that the guest sees, at the same paths as on the host."""

    overlays: dict[str, list[str]]  # where in the guest -> host directories, the uppermost first
    links: dict[str, str]  # symbolic links of the top level
    work: str  # the notebook's directory, the one place where writing lasts

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "HostView":
        """Build the view from what `to_json` made."""
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Return the view as plain data."""
        return asdict(self)

    def ruleset(self, *, also_read: Iterable[Path], also_write: Iterable[Path]) -> Ruleset:
        """Return what User-Mode Linux itself may open: this view, and what it needs on its own."""
        directories = [path for lower in self.overlays.values() for path in lower]
        return Ruleset(read_only=[*directories, *also_read], read_write=[self.work, *also_write])


def host_view(work: Path) -> HostView:
    """Decide what of this host a guest for the notebook directory `work` shall see.

    Raises:
        MachineError: `work` is a directory of the system, which must not become writable.
    """
    work = work.resolve()
    if str(work) in _NEVER_WRITABLE:
        error = MachineError(
            f"the notebook's directory is {work}: it would become writable for the guest's root"
        )
        error.add_note("Hint: start Jupyter in a directory of your own")
        raise error
    links = {name: os.readlink(name) for name in _TOP_LEVEL if os.path.islink(name)}
    unmerged = [name for name in _TOP_LEVEL if name not in links and os.path.isdir(name)]
    overlays = {name: [name] for name in (*_SYSTEM, *unmerged) if os.path.isdir(name)}
    for name in ("/usr", "/etc"):
        unpacked = Path(
            sys.prefix, "apt", name[1:]
        )  # packages unpacked without root lie over the system's own
        if unpacked.is_dir():
            overlays[name].insert(0, str(unpacked))
    environment = (sys.prefix, sys.base_prefix, *site.getsitepackages(), os.path.dirname(cnlab.__file__))
    for directory in sorted(os.path.realpath(path) for path in environment):
        if os.path.isdir(directory) and not any(Path(directory).is_relative_to(known) for known in overlays):
            overlays[directory] = [directory]
    return HostView(overlays, links, str(work))


def assemble(view: HostView, modules: Path) -> None:
    """In the guest, as process 1 on a read-only hostfs root: build the new root and move into it."""
    root = Path("/mnt")
    syscalls.mount("tmpfs", root, "tmpfs", data="mode=755,size=75%")
    layers, root = root / "layers", root / "root"
    for directory in ("", *_FRESH):
        Path(f"{root}{directory}").mkdir(parents=True, exist_ok=True)
    syscalls.mount(root, root, flags=syscalls.MS_BIND)
    for name, target in {**view.links, "/var/run": "/run"}.items():
        Path(f"{root}{name}").symlink_to(target)
    for number, (place, lower) in enumerate(sorted(view.overlays.items())):
        _overlay(f"{root}{place}", lower, layers / str(number))
    _mount_work(root, view.work)
    for sticky in ("/tmp", "/var/tmp"):
        Path(f"{root}{sticky}").chmod(0o1777)
    linked = Path(f"{root}/usr/lib/modules", modules.name)
    if not linked.exists():
        linked.parent.mkdir(parents=True, exist_ok=True)
        linked.symlink_to(
            modules if modules.is_relative_to("/usr") else f"/usr/lib/uml/modules/{modules.name}"
        )
    _enter(root)


def _overlay(place: str, lower: list[str], layer: Path) -> None:
    """Mount host directories at `place` so that changes go to `layer`, which is memory."""
    for directory in (Path(place), layer / "upper", layer / "work"):
        directory.mkdir(parents=True, exist_ok=True)
    escaped = ":".join(path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,") for path in lower)
    options = f"lowerdir={escaped},upperdir={layer}/upper,workdir={layer}/work"
    syscalls.mount("overlay", place, "overlay", data=options)


def _mount_work(root: Path, work: str) -> None:
    """Mount the notebook's directory; synchronously, so that a full disk is an error of the write."""
    place = f"{root}{work}"
    os.makedirs(place, exist_ok=True)
    syscalls.mount("work", place, "hostfs", syscalls.MS_SYNCHRONOUS, work)


def _enter(root: Path) -> None:
    os.chdir(root)
    syscalls.mount("/dev", "dev", flags=syscalls.MS_MOVE)
    syscalls.mount("proc", "proc", "proc")
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")
