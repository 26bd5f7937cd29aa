"""Which stages of a Dockerfile an image needs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from cnlab.containers.build.dockerfile import Dockerfile, Stage, resolve
from cnlab.containers.build.instructions import Copy
from cnlab.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of a file, to be found by name or number; what stands after FROM has no variables left."""

    name: str  # the file's
    stages: tuple[Stage, ...]
    arguments: Mapping[str, str]  # the ARGs before the first FROM

    @classmethod
    def of(cls, dockerfile: Dockerfile, build_args: Mapping[str, str]) -> Self:
        """Take the stages of a file, with the caller's values for its ARGs."""
        arguments: dict[str, str] = {}
        for argument in dockerfile.arguments:
            default = resolve(argument, arguments).default or ""
            arguments[argument.name] = build_args.get(argument.name, default)
        stages = (replace(stage, base=resolve(stage.base, arguments)) for stage in dockerfile.stages)
        return cls(dockerfile.name, tuple(stages), arguments)

    def find(self, name: str, *, before: int) -> int | None:
        """Return the number of an earlier stage, or None: then the name is an image's."""
        names = [stage.name for stage in self.stages[:before]]
        if name.lower() in filter(None, names):
            return len(names) - 1 - names[::-1].index(name.lower())
        return int(name) if name.isdigit() and int(name) < before else None

    def index(self, name: str) -> int:
        """Return the number of the stage that the caller wants.

        Raises:
            InvalidValue: there is none of that name.
        """
        found = self.find(name, before=len(self.stages))
        if found is None:
            names = ", ".join(stage.name or str(number) for number, stage in enumerate(self.stages))
            raise InvalidValue(f"{self.name} has no stage {name!r}; it has {names}")
        return found

    def needed_for(self, target: int) -> list[int]:
        """Return the stages that `target` is based on or copies from, directly or not, and itself."""
        needed, waiting = set(), [target]
        while waiting:
            number = waiting.pop()
            if number not in needed:
                needed.add(number)
                waiting += self._uses(number)
        return sorted(needed)

    def _uses(self, number: int) -> Iterator[int]:
        stage = self.stages[number]
        copies = [
            step.from_stage for step in stage.instructions if isinstance(step, Copy) and step.from_stage
        ]
        for name in (stage.base.image, *copies):
            found = self.find(name, before=number)
            if found is not None:
                yield found
