"""What a manifest comes to: calls on a mesh, which can be read before they are made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a `Mesh`, and the manifest that it comes from."""

    method: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    def __str__(self) -> str:
        given = [*map(repr, self.arguments), *(f"{name}={value!r}" for name, value in self.options.items())]
        origin = f"  # {self.origin}" if self.origin else ""
        return f"mesh.{self.method}({', '.join(given)}){origin}"

    def run(self, mesh: Any) -> None:
        """Make the call."""
        getattr(mesh, self.method)(*self.arguments, **self.options)


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls, in order."""

    calls: tuple[Call, ...] = ()

    def __iter__(self) -> Iterator[Call]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)

    def __str__(self) -> str:
        return "\n".join(map(str, self.calls)) or "nothing to do"

    def __repr__(self) -> str:
        return str(self)

    def run(self, mesh: Any) -> None:
        """Make them all; in a block ``with mesh.changes():`` they are one change."""
        for call in self.calls:
            call.run(mesh)
