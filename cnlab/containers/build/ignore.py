"""``.dockerignore``: which files of a directory are not part of the context.

See: https://docs.docker.com/build/concepts/context/#dockerignore-files
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the file."""

    pattern: str
    expression: re.Pattern[str]
    is_exception: bool  # it began with "!"


@dataclass(frozen=True, slots=True)
class Ignore:
    """The rules in order: the last that matches a path, or a directory above it, decides."""

    rules: Sequence[Rule] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a ``.dockerignore``; patterns are as seen from the context's root."""
        lines = (line.strip() for line in text.splitlines())
        return cls(tuple(_rule(line) for line in lines if line and not line.startswith("#")))

    @classmethod
    def of(cls, context: Path) -> Self:
        """Read the file in `context`, which need not exist."""
        file = context / ".dockerignore"
        return cls.parse(file.read_text()) if file.is_file() else cls()

    def hides(self, path: str) -> bool:
        """Whether `path`, relative to the context, is not part of it."""
        decision = False
        for rule in self.rules:
            if path and rule.expression.fullmatch(path):
                decision = not rule.is_exception
        return decision


def _rule(line: str) -> Rule:
    is_exception = line.startswith("!")
    pattern = line.removeprefix("!").strip().strip("/")
    # what is below a directory that matches, matches too
    return Rule(pattern, re.compile(f"{_translate(pattern)}(/.*)?", re.DOTALL), is_exception)


def _translate(pattern: str) -> str:
    """Turn a pattern into a regular expression: ``*`` stays in one directory, ``**`` spans any number."""
    parts = re.findall(r"\*\*/?|\*|\?|\[[^]]+\]|\\.|.", pattern, re.DOTALL)
    return "".join(_EXPRESSIONS.get(part) or _literal(part) for part in parts)


_EXPRESSIONS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _literal(part: str) -> str:
    if part.startswith("["):
        return part.replace("\\", r"\\")
    return re.escape(part[-1])
