"""An OCI runtime: what Docker and podman start containers with, and what notebooks call.

Interface: `create` makes the container of a bundle, `start` lets it run its program, `kill` sends it a
signal, `delete` takes it away; `state` tells how far it is. The command ``cnlab-runtime`` calls the same
functions, with runc's command line.

Where to begin reading: `creation.create`, then `init`, which is the container's own side of it.

See: https://github.com/opencontainers/runtime-spec; runc(8).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnlab.containers.runtime.additional import exec_ as exec
    from cnlab.containers.runtime.creation import create
    from cnlab.containers.runtime.install import command
    from cnlab.containers.runtime.known import features
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

_MODULES = {"Process": "waiting", "command": "install", "create": "creation", "features": "known"}


def __getattr__(name: str) -> object:
    """Import the module of a function when it is first asked for: each command needs few of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if name == "exec":
        return importlib.import_module(f"{__name__}.additional").exec_
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'operations')}"), name)


def __dir__() -> list[str]:
    return __all__
