"""The registry that Debian packages, the CNCF's Distribution: another reading of the specification."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cnlab.clock import wait_until
from cnlab.host import find_program


@contextlib.contextmanager
def debian_registry(directory: Path, *, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Serve what lies in `directory` at a free port of the loopback interface, and yield the address.

    Args:
        directory: where it keeps everything.
        certificate: files with a certificate and its key; with them it speaks HTTPS.
    """
    http = {"addr": "127.0.0.1:0", "secret": "signs the places of uploads"}
    if certificate is not None:
        http["tls"] = dict(zip(("certificate", "key"), map(str, certificate), strict=True))
    storage = {
        "filesystem": {"rootdirectory": str(directory / "storage")},
        "delete": {"enabled": True},
        "maintenance": {"uploadpurging": {"enabled": False}},
    }
    settings = {"version": 0.1, "storage": storage, "http": http}
    config = directory / "config.yml"
    directory.mkdir()
    config.write_text(json.dumps(settings))  # all JSON is YAML
    with (directory / "log").open("w") as log:  # a pipe would fill, and the registry wait
        process = subprocess.Popen(
            [str(find_program("docker-registry")), "serve", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            wait_until(
                lambda: process.poll() is not None or _place(directory / "log"),
                timeout_s=60,
                poll_s=0.02,
                what="docker-registry to listen",
            )
            assert process.poll() is None, f"docker-registry ended: {(directory / 'log').read_text()}"
            yield _place(directory / "log")
        finally:
            process.kill()
            process.wait()


def _place(log: Path) -> str:
    """Read from its log where it listens; empty while it does not."""
    found = re.search(r"listening on ([\d.:]+)", log.read_text())
    return found[1] if found else ""
