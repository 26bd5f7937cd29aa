r"""Read a Dockerfile: text in, stages of instructions out. Nothing is run and no file is opened.

The instructions are those that most Dockerfiles live on. Another one is refused by name rather than skipped,
since the image would not be what its author meant.

Variables stay as they are written, for what ``$PATH`` is worth depends on the base image; `resolve` replaces
them.

See: https://docs.docker.com/reference/dockerfile/
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cnlab.containers.build import variables
from cnlab.containers.build.instructions import (
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Instruction,
    Label,
    Run,
    User,
    Workdir,
)
from cnlab.errors import InvalidValue


class DockerfileError(InvalidValue):
    """A line of a Dockerfile means nothing here; the message is ``file:line: what, and what to do``."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The instructions from one FROM to the next."""

    base: From
    instructions: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        """What ``FROM ... AS`` calls it, or nothing."""
        return self.base.stage


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A file read: its stages, and the ARGs before the first that only FROM can use."""

    name: str
    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]


def parse(text: str, name: str = "Dockerfile") -> Dockerfile:
    """Read the text of a Dockerfile; `name` is what errors call it.

    Raises:
        DockerfileError: a line is not understood; the first one is told.
    """
    arguments: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for line, content in logical_lines(text):
        try:
            instruction = _parse_instruction(line, content)
            if isinstance(instruction, From):
                stages.append((instruction, []))
            elif stages:
                stages[-1][1].append(instruction)
            elif isinstance(instruction, Arg):
                arguments.append(instruction)
            else:
                raise InvalidValue("no stage has begun; a Dockerfile begins with FROM image")
        except InvalidValue as error:
            raise DockerfileError(f"{name}:{line}: {error}") from None
    if not stages:
        raise DockerfileError(f"{name}:1: there is no instruction; a Dockerfile begins with FROM image")
    return Dockerfile(name, tuple(arguments), tuple(Stage(base, tuple(found)) for base, found in stages))


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    r"""Yield (line number, instruction), with lines joined where one ends with ``\``.

    Comments and empty lines are left out; inside a continued instruction they do not end it.
    """
    begun, joined = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not joined:
            begun = number
        line = line.rstrip() if joined else line.strip()
        if line.endswith("\\"):
            joined += line[:-1]
            continue
        yield begun, joined + line
        joined = ""
    if joined.strip():
        yield begun, joined


InstructionT = TypeVar("InstructionT", bound=Instruction)


def resolve(instruction: InstructionT, env: Mapping[str, str]) -> InstructionT:
    """Replace the variables in those instructions that Docker replaces them in.

    Not in RUN, CMD and ENTRYPOINT: there the shell does it, when the command runs.
    """

    def replaced(value: Any) -> Any:
        match value:
            case str():
                return variables.expand(value, env)
            case tuple():
                return tuple(replaced(item) for item in value)
            case _:
                return value

    if isinstance(instruction, Run | Cmd | Entrypoint):
        return instruction
    own = [field.name for field in dataclasses.fields(instruction) if field.name not in ("line", "text")]
    return dataclasses.replace(instruction, **{name: replaced(getattr(instruction, name)) for name in own})


def _parse_instruction(line: int, content: str) -> Instruction:
    keyword, *words = content.split(maxsplit=1)
    keyword, rest = keyword.upper(), "".join(words).rstrip()
    if keyword not in _PARSERS:
        known = ", ".join(_PARSERS)
        hint = "; use COPY" if keyword == "ADD" else ""
        raise InvalidValue(f"unknown instruction {keyword}{hint}; known here are {known}")
    if "<<" in rest and re.search(r"(^|\s)<<-?[\"']?\w+", rest) and keyword in ("RUN", "COPY"):
        raise InvalidValue(
            f"{keyword} has a here-document, which is not known here; write a file and COPY it"
        )
    if not rest:
        raise InvalidValue(f"{keyword} stands alone; write {keyword} {_USAGE[keyword]}")
    try:
        return _PARSERS[keyword](line, f"{keyword} {rest}", rest)
    except InvalidValue as error:
        raise InvalidValue(f"{keyword}: {error}; write {keyword} {_USAGE[keyword]}") from None


def _flags(rest: str, *known: str) -> tuple[dict[str, str], str]:
    """Take the leading ``--name=value`` words off."""
    found = {}
    while rest.startswith("--"):
        flag, _, rest = rest.partition(" ")
        name, _, value = flag[2:].partition("=")
        if name not in known:
            raise InvalidValue(f"unknown option --{name}")
        found[name], rest = value, rest.lstrip()
    return found, rest


def _command(rest: str) -> Command:
    """Read the exec form, a JSON array of strings; anything else is the shell form."""
    try:
        vector = json.loads(rest) if rest.startswith("[") else None
    except ValueError:
        if re.fullmatch(r"\['.*'\]", rest):
            raise InvalidValue("the exec form is JSON, with double quotes") from None
        return rest
    if vector is None:
        return rest
    if not vector or not all(isinstance(word, str) for word in vector):
        raise InvalidValue("the exec form is a JSON array of strings, and not empty")
    return tuple(vector)


def _pairs(rest: str) -> tuple[tuple[str, str], ...]:
    """Read ``name=value …``, or the old ``name value with blanks``."""
    words = variables.split(rest)
    if "=" not in words[0]:
        name, _, value = rest.partition(" ")
        if not value.strip():
            raise InvalidValue(f"{name} has no value")
        return ((name, value.strip()),)
    for word in words:
        if not word.partition("=")[1] or word.startswith("="):
            raise InvalidValue(f"{word} is not name=value; a value with blanks needs quotes")
    return tuple((name, value) for name, _, value in (word.partition("=") for word in words))


def _one(rest: str) -> str:
    words = variables.split(rest)
    if len(words) != 1:
        raise InvalidValue(f"expected one word, got {len(words)}")
    return words[0]


def _from(line: int, text: str, rest: str) -> From:
    match variables.split(_flags(rest)[1]):
        case [image]:
            return From(line, text, image)
        case [image, as_, stage] if as_.upper() == "AS":
            if not re.fullmatch(r"[a-z][a-z0-9._-]*", stage.lower()):
                raise InvalidValue(f"stage name {stage!r} does not begin with a letter")
            return From(line, text, image, stage.lower())
    raise InvalidValue("expected an image")


def _arg(line: int, text: str, rest: str) -> Arg:
    name, equals, default = _one(rest).partition("=")
    return Arg(line, text, name, default if equals else None)


def _copy(line: int, text: str, rest: str) -> Copy:
    flags, rest = _flags(rest, "from", "chown", "chmod")
    vector = _command(rest)
    *sources, destination = variables.split(vector) if isinstance(vector, str) else vector
    if not sources:
        raise InvalidValue("a source and a destination are needed")
    if len(sources) > 1 and not destination.strip("\"'").endswith("/"):
        raise InvalidValue(f"several sources need a directory as destination: {destination}/")
    if (chmod := flags.get("chmod", "")) and not re.fullmatch(r"[0-7]{3,4}", chmod):
        raise InvalidValue(f"--chmod={chmod} is not an octal mode such as 0755")
    return Copy(line, text, tuple(sources), destination, flags.get("from", ""), flags.get("chown", ""), chmod)


def _expose(line: int, text: str, rest: str) -> Expose:
    ports = tuple(variables.split(rest))
    for port in ports:
        if not re.fullmatch(r"\d+(-\d+)?(/(tcp|udp|sctp))?", port) and "$" not in port:
            raise InvalidValue(f"{port} is not a port")
    return Expose(line, text, tuple(port if "/" in port or "$" in port else f"{port}/tcp" for port in ports))


_PARSERS: dict[str, Callable[[int, str, str], Instruction]] = {
    "FROM": _from,
    "ARG": _arg,
    "COPY": _copy,
    "RUN": lambda line, text, rest: Run(line, text, _command(_flags(rest)[1])),
    "ENV": lambda line, text, rest: Env(line, text, _pairs(rest)),
    "LABEL": lambda line, text, rest: Label(line, text, _pairs(rest)),
    "WORKDIR": lambda line, text, rest: Workdir(line, text, rest),
    "USER": lambda line, text, rest: User(line, text, _one(rest)),
    "EXPOSE": _expose,
    "ENTRYPOINT": lambda line, text, rest: Entrypoint(line, text, _command(rest)),
    "CMD": lambda line, text, rest: Cmd(line, text, _command(rest)),
}
_USAGE = {
    "FROM": "image, or FROM image AS stage",
    "ARG": "name or ARG name=default",
    "COPY": "source... destination",
    "RUN": 'command, or RUN ["program", "argument"]',
    "ENV": "name=value ...",
    "LABEL": "name=value ...",
    "WORKDIR": "/path",
    "USER": "name or number",
    "EXPOSE": "80 or EXPOSE 53/udp",
    "ENTRYPOINT": '["program", "argument"]',
    "CMD": '["program", "argument"]',
}
