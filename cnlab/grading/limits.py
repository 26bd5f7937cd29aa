"""How much a student's code may use, what it has used, and what it was refused: plain data.

Sizes are bytes, times are seconds. The defaults fit two submissions at a time on a machine with 2 GB.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from cnlab.errors import InvalidValue

MIB = 1 << 20
_ENDLESS = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one submission may use, all its processes together unless a line says otherwise."""

    cell_s: float = 30.0  # wall clock, each cell
    notebook_s: float = 300.0  # wall clock, from the first cell to the last check
    cpu_s: float = 120.0  # processor time
    cpus: float = 1.0  # processors at a time
    memory_bytes: int = 512 * MIB  # files in /tmp and in the working directory count too
    pids: int = 128  # processes and threads
    tmp_bytes: int = 128 * MIB  # all files it can write
    tmp_files: int = 4096
    file_bytes: int = 64 * MIB  # each file
    open_files: int = 512  # each process
    output_bytes: int = 1 * MIB  # each cell

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            kinds = (int,) if field.type is int else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < _ENDLESS:
                expected = "whole number" if field.type is int else "number"
                raise InvalidValue(f"limit {field.name} is {value!r}; expected a positive {expected}")

    def to_dict(self) -> dict[str, float]:
        """Return it as an object for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returns; what is left out has its default.

        Raises:
            InvalidValue: an unknown name, or a value that limits nothing.
        """
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - names):
            raise InvalidValue(f"unknown limit {unknown[0]!r}; the limits are {', '.join(sorted(names))}")
        return cls(**values)


KINDS = (
    "memory",
    "pids",
    "cpu",
    "time",
    "output",
    "disk",
    "seccomp",
    "network",
    "files",
    "left-over",
    "died",
)
"""What an event is about."""


@dataclass(frozen=True, slots=True)
class Event:
    """The sandbox refused or ended something; `cell` is the index of the cell that ran then, if known."""

    kind: str  # one of KINDS
    text: str
    cell: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as an object for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a submission has used, all its processes together."""

    cpu_s: float = 0.0
    memory_peak_bytes: int = 0

    def to_dict(self) -> dict[str, float]:
        """Return it as an object for JSON."""
        return asdict(self)
