"""The parts of a check that students do not see: told apart, so that they can run later.

See: nbgrader's `ClearHiddenTests`, whose marks these are; a course may choose others.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from cnlab.grading.job import HIDDEN_MARKS


@dataclass(frozen=True)
class Parts:
    """A check in two: `visible` runs with all that students see, `hidden` after all of that.

    `goes_on` says that `hidden` continues where `visible` ended; else it is the whole check, to be run again.
    """

    visible: str
    hidden: str = ""
    goes_on: bool = False


def parts_of(source: str, hidden_marks: tuple[str, str] = HIDDEN_MARKS) -> Parts:
    """Tell the parts of a check apart; each keeps its line numbers."""
    lines = source.split("\n")
    marks = hidden_lines(source, hidden_marks)
    if not any(marks):
        return Parts(source)
    visible = "\n".join("#" if hidden else line for line, hidden in zip(lines, marks, strict=True))
    first = marks.index(True)
    tail = "\n".join(["#"] * first + lines[first:])
    is_end = not any(
        line.strip() for line, hidden in zip(lines[first:], marks[first:], strict=True) if not hidden
    )
    if is_end and _stands_alone(visible) and _stands_alone(tail):
        return Parts(visible, tail, goes_on=True)
    is_left_open = _stands_alone(source) and not _stands_alone(visible)
    return Parts("" if is_left_open else visible, source)


def hidden_lines(source: str, hidden_marks: tuple[str, str] = HIDDEN_MARKS) -> list[bool]:
    """Say for each line whether students do not get it, as nbgrader decides when it takes them out."""
    begin, end = hidden_marks
    hidden, inside = [], False
    for line in source.split("\n"):
        is_mark = begin in line or end in line
        inside = begin in line or (inside and end not in line)
        hidden.append(inside or is_mark)
    return hidden


def is_apart(source: str, first: int) -> bool:
    """Whether all lines before the one at index `first` have run when it begins, and do not run again."""
    lines = source.split("\n")
    return _stands_alone("\n".join(lines[:first])) and _stands_alone("\n".join(lines[first:]))


def _stands_alone(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:  # or a magic: then it runs twice, which is right too
        return False
    return True
