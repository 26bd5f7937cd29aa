"""Exceptions on their way between two processes: by name and message.

Interface: `to_json` for what was raised, `Raised.read` for what came, `Raised.exception` to raise it again.

Only Python's own ordinary exceptions are raised as themselves. Whatever else a student's code raises, and
whatever would end a loop, a process or a test quietly (StopIteration, SystemExit, …), is a
`StudentError`. Each name has one class, made here, so that ``except ItsName`` works where the name is
known.
"""

from __future__ import annotations

import builtins
import contextlib
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from cnlab.grading.attempt import plain

_MAX_TEXT = 8000
_QUIET = (StopIteration, StopAsyncIteration)


class StudentError(Exception):
    """An exception of a class that only the student's notebook has; `name` is the class."""

    name = "StudentError"


@dataclass(frozen=True)
class Raised:
    """What was raised: its class by name, Python's own classes that this derives from, nearest first."""

    name: str
    bases: tuple[str, ...]
    message: str
    arguments: tuple[object, ...]
    traceback: str

    @classmethod
    def read(cls, data: plain.Json) -> Raised:
        """Read what `to_json` wrote, or what pretends to be.

        Raises:
            NotPlain: it is nothing of the kind.
        """
        if type(data) is not dict:
            raise plain.NotPlain("no exception")
        name, message, trace = (_text(data.get(key), "") for key in ("name", "message", "traceback"))
        bases = data.get("bases")
        names = tuple(_text(base, "") for base in bases[:20]) if type(bases) is list else ()
        try:
            arguments = plain.from_json(data.get("arguments"))
        except plain.NotPlain:
            arguments = None
        return cls(name, names, message, arguments if type(arguments) is tuple else (message,), trace)

    def exception(self, classes: dict[str, type[Exception]]) -> Exception:
        """Make the exception; `classes` are those of this notebook, by name, and grow."""
        own = _builtin(self.name)
        error = None
        if own is not None:
            with contextlib.suppress(Exception):
                error = own(*self.arguments)
        if error is None:
            error = class_of(self.name, self.bases, classes)(self.message)
        if self.traceback:
            error.add_note(f"in the student's notebook:\n{self.traceback}")
        return error


def class_of(name: str, bases: Sequence[str], classes: dict[str, type[Exception]]) -> type[Exception]:
    """Return the one class for a student's exception of this name."""
    if name not in classes:
        base = next((found for base in bases if (found := _builtin(base)) is not None), Exception)
        text = name if name.isidentifier() else "StudentError"
        parents = (StudentError,) if base is Exception else (StudentError, base)
        try:
            made = type(text, parents, {"name": name})
        except TypeError:  # two bases that do not fit together
            made = type(text, (StudentError,), {"name": name})
        classes[name] = made
    return classes[name]


def _builtin(name: str) -> type[Exception] | None:
    found = getattr(builtins, name, None) if name.isidentifier() else None
    if not isinstance(found, type) or not issubclass(found, Exception) or issubclass(found, _QUIET):
        return None
    return found


def to_json(error: BaseException, *, skips: Sequence[str] = ()) -> plain.Json:
    """Describe an exception; frames of the files `skips` are left out at the traceback's beginning."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        arguments = plain.to_json(error.args)
    except Exception:
        arguments = None
    return {
        "name": type(error).__name__,
        "bases": kinds,
        "message": _message(error),
        "arguments": arguments,
        "traceback": _trace(error, skips),
    }


def _message(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_TEXT]
    except BaseException:
        return "(its message cannot be read)"


def _trace(error: BaseException, skips: Sequence[str]) -> str:
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in skips:
        trace = trace.tb_next
    with contextlib.suppress(BaseException):
        return "".join(traceback.format_exception(type(error), error, trace, limit=-20))[-_MAX_TEXT:]
    return ""


def _text(value: object, default: str) -> str:
    return value[:_MAX_TEXT] if type(value) is str else default
