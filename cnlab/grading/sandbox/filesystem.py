"""The files that a student's code sees: a small root of its own, read-only but for what it may fill.

Interface: `build` assembles the root in the caller's mount namespace and enters it. There are the system's
programs and libraries, the Python environment, a few files of ``/etc``, a ``/proc`` of the caller's pid
namespace, harmless devices; and `HOME`, ``/tmp``, ``/var/tmp`` and ``/dev/shm`` on one file system of
limited size. Nothing else of the machine is there: no home, no course, no ``/run``, no ``/sys``.

See: pivot_root(2), mount_setattr(2), tmpfs(5).
"""

import functools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from cnlab.errors import InvalidValue
from cnlab.grading.limits import Limits
from cnlab.linux import mounts, syscalls
from cnlab.linux.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_REC

HOME = "/home/student"
"""The working directory inside, with the submission's files."""

USER, GROUP = 1000, 1000

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    "alternatives",
    "fonts",
    "ld.so.cache",
    "localtime",
    "mime.types",
    "os-release",
    "services",
    "ssl/certs",
)
_ENVIRONMENT = ("bin", "lib", "lib64", "share", "etc", "ssl", "apt", "pyvenv.cfg")
_DEVICES = ("null", "zero", "full", "random", "urandom")
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
_WRITABLE = {"var/tmp": "tmp", "tmp": "tmp", HOME.lstrip("/"): "home", "dev/shm": "shm"}
_FILES = {
    "etc/passwd": (
        f"root:x:0:0::/:/usr/sbin/nologin\nstudent:x:{USER}:{GROUP}:Student:{HOME}:/bin/bash\n"
        "nobody:x:65534:65534::/:/usr/sbin/nologin\n"
    ),
    "etc/group": f"root:x:0:\nstudent:x:{GROUP}:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 0x1, 0x2, 0x4


@functools.cache
def environment_paths() -> tuple[Path, ...]:
    """Return what makes up this Python environment: not whole directories, which may hold a course too."""
    import cnlab

    found = [Path(prefix) / name for prefix in _prefixes() for name in _ENVIRONMENT]
    found.append(Path(cnlab.__file__).parent)
    system = [Path("/") / name for name in _SYSTEM]
    kept: list[Path] = []
    for path in sorted(path for path in dict.fromkeys(found) if path.exists() or path.is_symlink()):
        if not any(path.is_relative_to(above) for above in (*system, *kept)):
            kept.append(path)
    return tuple(kept)


@functools.cache
def system_paths() -> tuple[Path, ...]:
    """Return what of the system a program needs, symbolic links too."""
    paths = (*(Path("/") / name for name in _SYSTEM), *(Path("/etc") / name for name in _ETC))
    return tuple(path for path in paths if path.is_symlink() or path.exists())


def _prefixes() -> list[str]:
    given = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    return list(dict.fromkeys([*given, *map(os.path.realpath, given)]))


def check_name(name: str) -> str:
    """Return `name` if it names a file below a directory.

    Raises:
        InvalidValue: it is absolute, climbs, or is no name at all.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise InvalidValue(f"{name!r} is no name for a file of a submission; expected one like 'data/a.csv'")
    return name


def build(limits: Limits, files: Mapping[str, bytes], owner: int) -> None:
    """Make the root and enter it; `owner` is who the student is, seen from here."""
    require_place(environment_paths())
    root = _mount_point(environment_paths())
    syscalls.mount("root", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m,nr_inodes=1k")
    os.umask(0o022)
    _show_system(root)
    _make_devices(root)
    _make_writable(root, limits, owner)
    write_files(root / HOME.lstrip("/"), files, owner)
    (root / "proc").mkdir()
    syscalls.mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2")
    os.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")
    syscalls.mount_setattr("/", attr_set=_MOUNT_ATTR_RDONLY)


def open_proc() -> int:
    """Return a directory of a ``/proc`` that hides no process of our pid namespace; nobody else has it."""
    mounts.make_private("/")
    syscalls.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.umount("/proc", syscalls.MNT_DETACH)
    return proc


def require_place(needed: Iterable[Path]) -> None:
    """Go on if nothing that a student needs lies where a student may write.

    Raises:
        InvalidValue: something does; the message says what to move.
    """
    for path in needed:
        for name in _WRITABLE:
            if path.is_relative_to(f"/{name}"):
                raise InvalidValue(f"{path} lies in /{name}, which a sandbox has of its own: move it")


def _mount_point(needed: Sequence[Path]) -> Path:
    """Return a directory to cover: one that holds nothing we still need."""
    for candidate in map(Path, ("/mnt", "/media", "/srv", "/tmp")):
        if candidate.is_dir() and not any(path.is_relative_to(candidate) for path in needed):
            return candidate
    raise InvalidValue("the Python environment lies in all of /mnt, /media, /srv and /tmp; move it elsewhere")


def _show_system(root: Path) -> None:
    for path in (*system_paths(), *environment_paths()):
        show(path, root)
    for name, text in _FILES.items():
        (root / name).write_text(text)


def show(path: Path, root: Path) -> None:
    """Show `path` of the machine, read-only, at the same place below `root`; copy a symbolic link."""
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target.symlink_to(os.readlink(path))
        return
    if path.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    syscalls.mount(path, target, flags=MS_BIND | MS_REC)
    attributes = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV
    syscalls.mount_setattr(str(target), attr_set=attributes, recursive=True)


def _make_devices(root: Path) -> None:
    devices = root / "dev"
    (devices / "pts").mkdir(parents=True)
    for name in _DEVICES:
        (devices / name).touch()
        syscalls.mount(Path("/dev") / name, devices / name, flags=MS_BIND)
    for name, target in LINKS.items():
        (devices / name).symlink_to(target)
    options = "newinstance,ptmxmode=0666,mode=620,max=64"
    syscalls.mount("devpts", devices / "pts", "devpts", MS_NOSUID | MS_NOEXEC, options)


def _make_writable(root: Path, limits: Limits, owner: int) -> None:
    """One file system for all that can be written, so that one limit holds."""
    store = root / "var"
    store.mkdir()
    data = f"mode=755,size={limits.tmp_bytes},nr_inodes={limits.tmp_files}"
    syscalls.mount("writable", store, "tmpfs", MS_NOSUID | MS_NODEV, data)
    for name in sorted(set(_WRITABLE.values())):
        (store / name).mkdir()
        os.chown(store / name, owner, owner)
    for name, source in _WRITABLE.items():
        target = root / name
        if target != store / source:
            target.mkdir(parents=True)
            syscalls.mount(store / source, target, flags=MS_BIND)


def write_files(directory: Path, files: Mapping[str, bytes], owner: int) -> None:
    """Write a submission's files below `directory`, and give them to `owner`."""
    for name, content in files.items():
        path = directory / name
        for parent in reversed(path.relative_to(directory).parents):
            if not (made := directory / parent).exists():
                made.mkdir()
                os.chown(made, owner, owner)
        path.write_bytes(content)
        os.chown(path, owner, owner)
