"""A Docker Engine whose containers are all started by our runtime, and a look at what they leave behind."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dockerd import Dockerd, private_dockerd

from cnlab.clock import wait_until
from cnlab.containers import runtime
from cnlab.host import find_program
from cnlab.linux.mounts import read_mountinfo

APPLETS = (
    *(
        "cat",
        "chown",
        "df",
        "echo",
        "env",
        "false",
        "grep",
        "head",
        "hostname",
        "id",
        "ip",
        "ls",
        "mkdir",
        "mount",
    ),
    *(
        "nc",
        "ps",
        "pwd",
        "seq",
        "sh",
        "sleep",
        "stty",
        "tail",
        "test",
        "touch",
        "true",
        "tty",
        "unshare",
        "wget",
    ),
)


def busybox_archive() -> bytes:
    """A root file system for ``docker import``: busybox under its names, and two users."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(str(find_program("busybox")), "bin/busybox")
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name, mode in (("tmp", 0o1777), ("etc", 0o755), ("root", 0o700)):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, mode
            archive.addfile(directory)
        for name, text in (
            ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"),
            ("etc/group", b"root:x:0:\nuser:x:1000:\naudio:x:29:user\n"),
        ):
            file = tarfile.TarInfo(name)
            file.size = len(text)
            archive.addfile(file, io.BytesIO(text))
    return out.getvalue()


@pytest.fixture(scope="package")
def dockerd() -> Iterator[Dockerd]:
    """The engine, with an image ``busybox``."""
    options = (f"--add-runtime=cnlab={runtime.command()}", "--default-runtime=cnlab")
    with private_dockerd(*options) as dockerd:
        archive = dockerd.directory / "busybox.tar"
        archive.write_bytes(busybox_archive())
        dockerd.docker("import", str(archive), "busybox")
        yield dockerd


@pytest.fixture
def docker(dockerd: Dockerd) -> Iterator[Callable[..., str]]:
    """Return a function that runs ``docker ARGUMENTS`` and returns what it printed; then nothing is left."""
    yield lambda *arguments: dockerd.docker(*arguments).stdout.strip()
    names = dockerd.docker("ps", "--all", "--quiet").stdout.split()
    if names:
        dockerd.docker("rm", "--force", *names)
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not left_by(dockerd), timeout_s=10)
    assert left_by(dockerd) == []


def left_by(dockerd: Dockerd) -> list[str]:
    """Look for groups, mounts, state and processes of containers."""
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**{dockerd.cgroup_parent}/*/")]
    mounts = [mount.mount_point for mount in read_mountinfo() if "/data/overlay2/" in mount.mount_point]
    mounts = [point for point in mounts if point.startswith(str(dockerd.directory))]
    state = [str(path) for path in dockerd.directory.glob("exec/runtime*/moby/*")]
    return [*groups, *mounts, *state, *_processes_of(dockerd)]


def _processes_of(dockerd: Dockerd) -> list[str]:
    """Shims of containers, which are also the parents of what runs in them, and calls of the runtime."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        programs = {os.path.basename(word) for word in words[:3]}
        if programs & {"containerd-shim-runc-v2", "cnlab-runtime"} and str(dockerd.directory) in " ".join(
            words
        ):
            found.append(" ".join(words))
    return found
