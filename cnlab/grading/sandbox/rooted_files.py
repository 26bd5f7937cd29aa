"""The files of a student who is root: the machine's programs, read-only, and all else fresh and its own.

Interface: `build` assembles the root in the caller's mount namespace, which the student's user namespace
owns, and enters it. Nothing in it is locked (mount_namespaces(7)): what is mounted here may be moved, covered
and unmounted, as on a machine of its own.

See: pivot_root(2), mount_namespaces(7); `cnlab.machine.rootfs`, which builds the machine's own root.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from cnlab.grading.limits import Limits
from cnlab.grading.sandbox import filesystem
from cnlab.linux import mounts, syscalls
from cnlab.linux.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID

HOME = "/root"
TESTER_PROC = "/run/tester"
"""Where a second ``/proc`` is mounted until the tester has taken it: no remount by the student changes it."""

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt")
_FRESH = ("tmp", "run", "root", "home", "mnt", "var")
_DIRECTORIES = ("var/tmp", "var/lib", "var/log", "run/cnlab/proc", TESTER_PROC.lstrip("/"))
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_PROC_FLAGS = MS_NOSUID | MS_NODEV | MS_NOEXEC


def build(limits: Limits, files: Mapping[str, bytes], *, has_cgroups: bool) -> None:
    """Make the root and enter it, as root of the user namespace that owns our namespaces."""
    mounts.make_private("/")
    os.umask(0o022)
    cpuinfo = mounts_over_cpuinfo()
    root = Path("/mnt")
    syscalls.mount("root", root, "tmpfs", data=f"mode=755,size={limits.tmp_bytes}")
    _make_fresh(root, limits)
    filesystem.write_files(root / HOME.lstrip("/"), files, 0)
    for path in (*(Path("/") / name for name in _SYSTEM), *filesystem.environment_paths()):
        if path.is_symlink() or path.exists():
            filesystem.show(path, root)
    _make_devices(root)
    _mount_kernel_views(root, cpuinfo, has_cgroups=has_cgroups)
    os.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")


def mounts_over_cpuinfo() -> bytes | None:
    """Return what the machine shows in place of the kernel's own /proc/cpuinfo, if it does."""
    if not any(mount.mount_point == "/proc/cpuinfo" for mount in mounts.read_mountinfo()):
        return None
    return Path("/proc/cpuinfo").read_bytes()


def _make_fresh(root: Path, limits: Limits) -> None:
    options = f"size={limits.tmp_bytes},nr_inodes={limits.tmp_files}"
    for name in _FRESH:
        (root / name).mkdir()
        syscalls.mount(name, root / name, "tmpfs", data=f"mode={700 if name == 'root' else 755},{options}")
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True)
    (root / "var/run").symlink_to("/run")
    for sticky in ("tmp", "var/tmp"):
        (root / sticky).chmod(0o1777)


def _make_devices(root: Path) -> None:
    devices = root / "dev"
    for name in ("pts", "shm", "mqueue"):
        (devices / name).mkdir(parents=True)
    for name in _DEVICES:
        (devices / name).touch()
        syscalls.mount(Path("/dev") / name, devices / name, flags=MS_BIND)
    for name, target in filesystem.LINKS.items():
        (devices / name).symlink_to(target)
    options = "newinstance,ptmxmode=0666,mode=620"
    syscalls.mount("devpts", devices / "pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
    syscalls.mount("shm", devices / "shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    syscalls.mount("mqueue", devices / "mqueue", "mqueue", _PROC_FLAGS)


def _mount_kernel_views(root: Path, cpuinfo: bytes | None, *, has_cgroups: bool) -> None:
    for name in ("proc", "sys"):
        (root / name).mkdir()
    # A user namespace may mount a /proc only where it already sees one that nothing covers a part of.
    for place in ("proc", "run/cnlab/proc", TESTER_PROC.lstrip("/")):
        syscalls.mount("proc", root / place, "proc", _PROC_FLAGS)
    syscalls.mount("sysfs", root / "sys", "sysfs", _PROC_FLAGS)
    if has_cgroups:
        syscalls.mount("cgroup2", root / "sys/fs/cgroup", "cgroup2", _PROC_FLAGS)
    if cpuinfo is not None:
        complete = root / "run/cnlab/cpuinfo"
        complete.write_bytes(cpuinfo)
        for place in ("proc", TESTER_PROC.lstrip("/")):
            syscalls.mount(complete, root / place / "cpuinfo", flags=MS_BIND)
