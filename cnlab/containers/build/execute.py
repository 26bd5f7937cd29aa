"""What RUN runs: a container of our own runtime, on the image so far."""

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnlab.containers import bundle, runtime


def execute(
    rootfs: Path, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, user: str
) -> tuple[int, str]:
    """Run a command in a container with this root file system; return its exit code and what it said.

    It has namespaces of its own, the network too: a build that needs nothing from outside gives the same
    image everywhere.
    """
    config = bundle.config_for(
        args=list(argv),
        env=[f"{name}={value}" for name, value in env.items()],
        cwd=cwd,
        user=user or None,
        hostname="build",
        rootfs=str(rootfs),
    )
    with tempfile.TemporaryDirectory(prefix="cnlab-build-") as directory, tempfile.TemporaryFile() as said:
        bundle.write_bundle(directory, config)
        with open("/dev/null", "rb") as nothing:
            stdio = (nothing.fileno(), said.fileno(), said.fileno())
            code = runtime.run(f"build-{secrets.token_hex(8)}", directory, stdio=stdio)
        said.seek(0)
        return code, said.read().decode(errors="replace")
