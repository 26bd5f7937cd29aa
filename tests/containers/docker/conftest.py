"""A Docker Engine whose containers are all started by our runtime, and a look at what they leave behind."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dockerd import Dockerd, private_dockerd
from rootfs_archive import busybox_archive

from cnlab.clock import wait_until
from cnlab.containers import runtime
from cnlab.containers.runtime.cgroup_trees import find_trees
from cnlab.linux.mounts import read_mountinfo


@pytest.fixture(scope="module")
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
        wait_until(lambda: not left_by(dockerd), timeout_s=60)
    assert left_by(dockerd) == []


def left_by(dockerd: Dockerd) -> list[str]:
    """Look for groups, mounts, state, interfaces and processes of containers."""
    parents = (Path(tree.mount_point + dockerd.cgroup_parent) for tree in find_trees())
    groups = [str(path) for parent in parents for path in parent.glob("*/")]
    places = tuple(f"{dockerd.directory}/{place}/" for place in ("data", "exec"))
    mounts = [mount.mount_point for mount in read_mountinfo() if mount.mount_point.startswith(places)]
    tasks = "exec/containerd/daemon/io.containerd.runtime.v2.task/moby/*"
    state = [str(path) for place in ("exec/runtime*/moby/*", tasks) for path in dockerd.directory.glob(place)]
    links = [name for _, name in dockerd.in_its_network(socket.if_nameindex) if name.startswith("veth")]
    return [*groups, *mounts, *state, *links, *_processes_of(dockerd)]


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
