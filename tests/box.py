"""A box: a bundle with busybox in it, and the container that a test makes of it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leftovers import control_groups

from cnlab.clock import wait_until
from cnlab.containers import bundle, runtime
from cnlab.host import find_program

APPLETS = (
    *("sh", "cat", "chmod", "echo", "env", "grep", "head", "hostname", "id", "kill", "ls", "mkdir", "mknod"),
    *(
        "mount",
        "ps",
        "pwd",
        "readlink",
        "rm",
        "sleep",
        "stat",
        "stty",
        "tail",
        "touch",
        "true",
        "tty",
        "umount",
    ),
    *("wc",),
)
_numbers = itertools.count()


def busybox_rootfs(directory: Path) -> Path:
    """Make a root file system with one program of many names, and return its path."""
    busybox = find_program("busybox")
    assert busybox is not None, "the tests need busybox-static"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    shutil.copy2(busybox, directory / "bin/busybox")
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")
    return directory


class Box:
    """One bundle, one container id, one state directory; `close` takes the container away, whatever it does.

    Attributes:
        config: the configuration; change it, then `create` or `run`.
        said: what the container's processes have said so far.
    """

    def __init__(self, directory: Path, **options: Any) -> None:
        self.bundle = directory / "bundle"
        self.root = str(directory / "state")
        self.rootfs = busybox_rootfs(self.bundle / "rootfs")
        self.id = f"box-{os.getpid()}-{next(_numbers)}"
        self.warnings: list[str] = []
        self.config = bundle.config_for(**({"args": ["true"], "hostname": "box", "seccomp": None} | options))
        self._output = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by `close`

    @property
    def linux(self) -> dict[str, Any]:
        return self.config["linux"]

    @property
    def process(self) -> dict[str, Any]:
        return self.config["process"]

    @property
    def said(self) -> str:
        self._output.seek(0)
        return self._output.read().decode()

    def write(self) -> None:
        bundle.write_bundle(self.bundle, self.config)

    def create(self, *args: str, **options: Any) -> dict[str, Any]:
        """Write the bundle and create the container; `args` are its program, if given."""
        if args:
            self.process["args"] = list(args)
        self.write()
        output = self._output.fileno()
        with open(os.devnull) as nothing:
            stdio = (nothing.fileno(), output, output)
            settings = {"stdio": stdio, "root": self.root, "warn": self.warnings.append}
            return runtime.create(self.id, str(self.bundle), **(settings | options))

    def start(self) -> None:
        runtime.start(self.id, root=self.root, warn=self.warnings.append)

    def state(self) -> dict[str, Any]:
        return runtime.state(self.id, root=self.root)

    @property
    def status(self) -> str:
        return self.state()["status"]

    @property
    def pid(self) -> int:
        return self.state()["pid"]

    def kill(self, signal: int | str = "KILL", **options: Any) -> None:
        runtime.kill(self.id, signal, root=self.root, **options)

    def wait(self) -> int:
        return runtime.wait(self.id, timeout_s=60, root=self.root)

    def delete(self, **options: Any) -> None:
        runtime.delete(self.id, root=self.root, warn=self.warnings.append, **options)

    def run(self, *args: str) -> str:
        """Run `args` to the end and return what they said; the container is left stopped."""
        self.create(*args)
        self.start()
        self.code = self.wait()
        return self.said

    def sh(self, script: str) -> str:
        """Run a shell script in the container and return what it said."""
        return self.run("sh", "-c", script)

    def exec(self, *args: str, **process: Any) -> tuple[int, str]:
        """Run one more process in the container and return its exit code and what it said."""
        with tempfile.TemporaryFile() as output, open(os.devnull) as nothing:
            stdio = (nothing.fileno(), output.fileno(), output.fileno())
            wanted = {"args": list(args)} | process
            with runtime.exec(self.id, wanted, stdio=stdio, root=self.root) as started:
                code = started.wait(timeout_s=60)
            output.seek(0)
            return code, output.read().decode()

    def hook(self, script: str, **options: Any) -> dict[str, Any]:
        """Return a hook that runs `script` with the host's shell."""
        return {
            "path": "/bin/sh",
            "args": ["sh", "-c", script],
            "env": [f"PATH={os.environ['PATH']}"],
        } | options

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``cnlab-runtime``."""
        settings = {
            "capture_output": True,
            "text": True,
            "timeout": 100,
            "cwd": self.bundle,
            "stdin": subprocess.DEVNULL,
        }
        return subprocess.run([runtime.command(), "--root", self.root, *arguments], **(settings | options))

    def command_on_host(self, *argv: str) -> str:
        """Run a program outside and return what it said."""
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=100).stdout

    def is_gone(self) -> bool:
        """Whether nothing of the container is left: state, process, cgroups."""
        return not os.path.exists(f"{self.root}/{self.id}") and not control_groups(f"*{self.id}*")

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_until(condition, timeout_s=60, what=what)

    def close(self) -> None:
        runtime.delete(self.id, force=True, root=self.root, warn=self.warnings.append)
        self._output.close()


def main() -> None:
    """As a script in a private kernel: print what `python box.py SCRIPT` says as the root of a container."""
    with tempfile.TemporaryDirectory() as directory:
        box = Box(Path(directory), **json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
        try:
            print(box.sh(sys.argv[1]), end="")
        finally:
            box.close()


if __name__ == "__main__":
    main()
