"""An OCI runtime: what Docker and podman start containers with, and what notebooks call.

Interface: `create` makes the container of a bundle, `start` lets it run its program, `kill` sends it a
signal, `delete` takes it away; `state` tells how far it is. The command ``cnlab-runtime`` calls the same
functions, with runc's command line.

Where to begin reading: `creation.create`, then `init`, which is the container's own side of it.

See: https://github.com/opencontainers/runtime-spec; runc(8).
"""

from __future__ import annotations

from cnlab.containers.runtime.additional import exec_ as exec
from cnlab.containers.runtime.creation import create
from cnlab.containers.runtime.operations import (
    containers,
    delete,
    kill,
    pause,
    ps,
    resume,
    run,
    start,
    state,
    stats,
    update,
    wait,
)
from cnlab.containers.runtime.waiting import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def command() -> str:
    """Return the absolute path of ``cnlab-runtime``, for ``dockerd --add-runtime cnlab=PATH``."""
    from cnlab.containers.runtime import install

    return install.command()


def features() -> dict[str, Any]:
    """Return what this runtime knows; see runtime-spec, features.md."""
    from cnlab.containers.runtime import known

    return known.features()


__all__ = [
    "Process",
    "command",
    "containers",
    "create",
    "delete",
    "exec",
    "features",
    "kill",
    "pause",
    "ps",
    "resume",
    "run",
    "start",
    "state",
    "stats",
    "update",
    "wait",
]
