"""A Docker Engine that only a test has: in a network namespace of its own, with its own files and sockets.

The machine's network, its firewall and its own Docker Engine, if it runs one, see nothing of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cnlab.clock import wait_until
from cnlab.host import find_program
from cnlab.linux import syscalls
from cnlab.linux.mounts import read_mountinfo

_START_S = 60


class Dockerd:
    """A running engine; `docker` runs the command line client against it."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], cgroup_parent: str) -> None:
        self.directory = directory
        self.process = process
        self.cgroup_parent = cgroup_parent
        self.address = f"unix://{directory}/docker.sock"

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.directory / "log").read_text(errors="replace")

    def docker(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``docker ARGUMENTS`` and capture what it says."""
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 300}
        environment = {**os.environ, "DOCKER_CONFIG": str(self.directory / "config")}
        command = ["docker", "--host", self.address, *arguments]
        done = subprocess.run(command, env=environment, **settings | options)
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def in_its_network(self, function: Callable[[], Any]) -> Any:
        """Call `function` in the engine's network namespace: sockets made there stay there."""
        results: list[Any] = []

        def call() -> None:
            with open(f"/proc/{self.process.pid}/ns/net", "rb") as namespace:
                syscalls.setns(namespace.fileno(), syscalls.CLONE_NEWNET)
            results.append(function())

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return results[0]


@contextlib.contextmanager
def private_dockerd(*options: str) -> Iterator[Dockerd]:
    """Start an engine with more `options` of dockerd(8), and end it with all that it made."""
    directory = Path(tempfile.mkdtemp(prefix="cnlab-dockerd-"))
    cgroup_parent = f"/{directory.name}"
    script = 'ip link set lo up; exec "$@"'
    places = [f"--data-root={directory}/data", f"--exec-root={directory}/exec", f"--pidfile={directory}/pid"]
    places += [f"--host=unix://{directory}/docker.sock", f"--cgroup-parent={cgroup_parent}"]
    command = [
        str(find_program("dockerd")),
        *places,
        "--bip=172.29.7.1/24",
        "--storage-driver=overlay2",
        *options,
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", script, "sh", *command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    dockerd = Dockerd(directory, process, cgroup_parent)
    try:
        wait_until(
            lambda: process.poll() is not None or dockerd.docker("version", check=False).returncode == 0,
            timeout_s=_START_S,
            poll_s=0.1,
            what="dockerd to answer",
        )
        assert process.poll() is None, f"dockerd ended: {dockerd.log[-2000:]}"
        yield dockerd
    finally:
        _stop(dockerd)


def _stop(dockerd: Dockerd) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        ids = dockerd.docker("ps", "--all", "--quiet", check=False).stdout.split()
        if ids:
            dockerd.docker("rm", "--force", "--volumes", *ids, check=False)
    dockerd.process.terminate()
    try:
        dockerd.process.wait(20)
    except subprocess.TimeoutExpired:
        dockerd.process.kill()
        dockerd.process.wait()
    for mount in reversed(read_mountinfo()):
        if mount.mount_point.startswith(f"{dockerd.directory}/"):
            syscalls.umount(mount.mount_point, syscalls.MNT_DETACH)
    shutil.rmtree(dockerd.directory)
    for mount in read_mountinfo():
        if mount.fs_type in ("cgroup", "cgroup2"):  # those of others come and go: look at our own only
            group = f"{mount.mount_point}{dockerd.cgroup_parent}"
            for folder, _, _ in os.walk(group, topdown=False):
                os.rmdir(folder)
