"""What instructions do to an image's config: the part that changes no file.

The config is the object ``config`` of the OCI image config, such as
``{"Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/app"}``.

See: OCI image-spec, config.md, "Properties".
"""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from cnlab.containers.build.instructions import (
    Cmd,
    Command,
    Entrypoint,
    Env,
    Expose,
    Instruction,
    Label,
    User,
    Workdir,
)

Config = dict[str, Any]
SHELL = ("/bin/sh", "-c")


def configured(config: Config, instruction: Instruction, *, keep_cmd: bool = True) -> Config:
    """Return the config after an instruction; one that says nothing of it leaves it as it is.

    An ENTRYPOINT takes away a CMD that came with the base image (`keep_cmd` false): it was meant for another
    program.
    """
    match instruction:
        case Env():
            return config | {"Env": _with_variables(config.get("Env", []), instruction.variables)}
        case Label():
            return config | {"Labels": config.get("Labels", {}) | dict(instruction.labels)}
        case Workdir():
            return config | {"WorkingDir": workdir(config, instruction.path)}
        case User():
            return config | {"User": instruction.user}
        case Expose():
            return config | {
                "ExposedPorts": config.get("ExposedPorts", {}) | {p: {} for p in instruction.ports}
            }
        case Entrypoint():
            kept = config if keep_cmd else {key: value for key, value in config.items() if key != "Cmd"}
            return kept | {"Entrypoint": list(argument_vector(instruction.command))}
        case Cmd():
            return config | {"Cmd": list(argument_vector(instruction.command))}
        case _:
            return config


def argument_vector(command: Command) -> tuple[str, ...]:
    """Return what is executed: the shell form is left to a shell."""
    return (*SHELL, command) if isinstance(command, str) else command


def workdir(config: Mapping[str, Any], path: str = "") -> str:
    """Return the working directory after ``WORKDIR path``; a relative one is below that before it."""
    return str(PurePosixPath("/", config.get("WorkingDir") or "/", path))


def environment(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that are set in containers."""
    return dict(entry.partition("=")[::2] for entry in config.get("Env") or [])


def _with_variables(entries: Iterable[str], variables: Iterable[tuple[str, str]]) -> list[str]:
    together = dict(entry.partition("=")[::2] for entry in entries) | dict(variables)
    return [f"{name}={value}" for name, value in together.items()]
