"""A small world in which an instructor grades, so that all that is left in it can be counted.

It has processes, mounts, shared memory, a loopback and control groups of its own; what ends it
ends all of it.
The instructor is root of the machine, or an ordinary user without privileges.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import student
from student import ROOT

from cnlab.linux import namespaces, syscalls
from cnlab.linux.cgroups_v1 import hierarchies, parse_membership
from cnlab.linux.mounts import read_mountinfo
from cnlab.linux.rtnetlink import Rtnetlink

TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
HOME = Path("/tmp/instructor")
_UID = 19_000
_numbers = itertools.count(1)


class World:
    """The world while its ``with`` block lasts; `is_root` says what the instructor in it is."""

    def __init__(self, is_root: bool) -> None:
        self.is_root = is_root
        self.uid = 0 if is_root else _UID + os.getpid() % 1000

    def __enter__(self) -> World:
        with contextlib.ExitStack() as stack:
            self._groups = stack.enter_context(_groups(f"cnlab-attacks-{os.getpid()}-{next(_numbers)}"))
            reading, writing = os.pipe()
            holder = namespaces.spawn(
                lambda: _hold(writing, self.uid, self._groups),
                new=("mnt", "pid", "ipc", "net", "uts"),
                mount_proc=True,
            )
            self.pid = stack.enter_context(holder).pid
            os.close(writing)
            assert os.read(reading, 1) == b"r"
            os.close(reading)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def path(self, inside: Path | str) -> Path:
        """Where the tests find a file of the world."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def command(self, argv: list[str]) -> list[str]:
        """Return how to run a command in the world as the instructor."""
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--pid",
            "--ipc",
            "--net",
            "--uts",
            "--wd=/tmp",
        ]
        become = (
            [] if self.is_root else [sys.executable, "-P", str(student.__file__), str(self.uid), str(HOME)]
        )
        return [*enter, *become, *argv]

    def run(
        self, argv: list[str], *, env: dict[str, str] | None = None, timeout_s: float = 500
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; what it writes is for messages of failed tests."""
        process = self.popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def popen(
        self, argv: list[str], *, env: dict[str, str] | None = None, **options: object
    ) -> subprocess.Popen[str]:
        """Start a command."""
        enter = _in_groups(self._groups)
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [*enter, *self.command(argv)], env=self.environment | (env or {}), cwd="/", **options
        )

    @property
    def environment(self) -> dict[str, str]:
        """A fresh login's environment."""
        path = os.pathsep.join((os.path.dirname(sys.executable), "/usr/sbin", "/usr/bin", "/sbin", "/bin"))
        return {
            "HOME": str(HOME),
            "TMPDIR": "/tmp",
            "PATH": path,
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT / "tests"),
        }

    def census(self) -> dict[str, list[str]]:
        """Everything that a submission might have left here."""
        return {
            "processes": sorted(self._processes()),
            "mounts": sorted(self.path("/proc/1/mountinfo").read_text().splitlines()),
            "shared memory": self._shared_memory(),
            "control groups": sorted(
                str(path) for group in self._groups for path in group.rglob("*") if path.is_dir()
            ),
            "links": sorted(
                line.split(":")[0] for line in self.path("/proc/1/net/dev").read_text().splitlines()
            ),
            "files": sorted(self._files()),
        }

    def _processes(self) -> Iterator[str]:
        for name in filter(str.isdigit, os.listdir(self.path("/proc"))):
            with contextlib.suppress(OSError):
                stat = self.path(f"/proc/{name}/stat").read_text(errors="replace")
                arguments = self.path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
                if stat.rpartition(")")[2].split()[0] not in "ZX":
                    yield arguments.replace("\0", " ") or stat

    def _shared_memory(self) -> list[str]:
        done = self.run(["sh", "-c", "cat /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg"])
        return [" ".join(line.split()[:3]) for line in done.stdout.splitlines()]

    def _files(self) -> Iterator[str]:
        """All files outside of the course, which is looked at by its own test."""
        for top in TEMPORARY:
            start = self.path(top)
            for at, names, files in os.walk(start):
                inside = top + at.removeprefix(str(start))
                if Path(inside) == HOME:
                    names[:] = [
                        name for name in names if name not in ("course", ".cache", ".local", ".config")
                    ]
                yield from (os.path.join(inside, name) for name in [*names, *files])


@contextlib.contextmanager
def _groups(name: str) -> Iterator[list[Path]]:
    """Make a group of that name, without limits, in each version 1 tree, below the caller's."""
    membership = parse_membership(Path("/proc/self/cgroup").read_text())
    made: list[Path] = []
    try:
        for controller, mount in hierarchies(read_mountinfo()).items():
            if controller in ("memory", "pids", "cpu", "cpuacct", "freezer"):
                above = Path(mount.mount_point) / os.path.relpath(membership[controller], mount.root)
                _remove_stale(above)
                path = above / name
                if path not in made:
                    path.mkdir()
                    made.append(path)
        yield made
    finally:
        for path in made:
            _remove(path)


def _remove_stale(above: Path) -> None:
    """Remove the groups of runs that were killed: their names have the pid."""
    for group in above.glob("cnlab-attacks-*"):
        if not Path("/proc", group.name.split("-")[2]).exists():
            _remove(group)


def _remove(group: Path) -> None:
    for path in [*sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True), group]:
        deadline = time.monotonic() + 5
        while path.exists():
            try:
                path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise


def _in_groups(groups: list[Path]) -> list[str]:
    """Return what moves a shell into the groups before it becomes the command that follows."""
    return ["sh", "-c", "".join(f"echo 0 > {group}/cgroup.procs; " for group in groups) + 'exec "$@"', "sh"]


def _hold(ready: int, uid: int, groups: list[Path]) -> NoReturn:
    """Furnish the world, and reap orphans as long as it lasts."""
    for group in groups:
        (group / "cgroup.procs").write_text("0")
    for top in TEMPORARY:
        syscalls.mount("tmpfs", top, "tmpfs", syscalls.MS_NOSUID, data="mode=1777")
    # An attack that succeeds must not harm the machine of whoever runs the tests.
    syscalls.mount("none", "/", flags=syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY)
    with Rtnetlink() as network:
        network.set_link("lo", up=True)
    HOME.mkdir(mode=0o700)
    os.chown(HOME, uid, uid)
    os.write(ready, b"r")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        signal.sigwait({signal.SIGCHLD})
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def remove_tree(path: Path) -> None:
    """Remove a tree deeper than Python likes to recurse."""
    if path.exists():
        subprocess.run([str(shutil.which("rm")), "-rf", "--", str(path)], check=True)
