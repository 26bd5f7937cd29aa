"""The instructions of a Dockerfile as data.

See: https://docs.docker.com/reference/dockerfile/
"""

from dataclasses import dataclass

Command = str | tuple[str, ...]
"""The shell form is text for ``/bin/sh -c``, the exec form the argument vector itself."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; `text` is what was written, in one line."""

    line: int  # of the file, from 1
    text: str


@dataclass(frozen=True, slots=True)
class From(Instruction):
    """Begin a stage with the file system and the configuration of `image`; ``scratch`` is nothing at all."""

    image: str
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    """A variable that whoever builds may set; it is not in the image."""

    name: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Copy(Instruction):
    """Copy files of the context, or of an earlier stage."""

    sources: tuple[str, ...]
    destination: str
    from_stage: str = ""
    chown: str = ""  # "user:group", names or numbers
    chmod: str = ""  # octal


@dataclass(frozen=True, slots=True)
class Run(Instruction):
    """Run a command in the image so far; what it changes is a layer."""

    command: Command


@dataclass(frozen=True, slots=True)
class Env(Instruction):
    """Set variables, here and in containers."""

    variables: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Label(Instruction):
    """Say something about the image."""

    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Workdir(Instruction):
    """Set the working directory, here and in containers; it is made if need be."""

    path: str


@dataclass(frozen=True, slots=True)
class User(Instruction):
    """Set who runs commands, here and in containers."""

    user: str  # "user" or "user:group", names or numbers


@dataclass(frozen=True, slots=True)
class Expose(Instruction):
    """Say which ports a container listens at; this opens none."""

    ports: tuple[str, ...]  # "80/tcp"


@dataclass(frozen=True, slots=True)
class Entrypoint(Instruction):
    """Set the program of containers."""

    command: Command


@dataclass(frozen=True, slots=True)
class Cmd(Instruction):
    """Set the arguments of the entry point, or the command where there is no entry point."""

    command: Command
