"""What a student sees of checks: a card in a notebook, lines in a terminal. It decides nothing.

A failed check says what was expected, what came, and where to look, when its message is written in the way of
the labs: ``expected …, got …; look at …``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["passed", "failed", "open", "partly"]

_MESSAGE = re.compile(r"expected (?P<expected>.*?),? got (?P<got>.*?)(?:[;:] look (?P<look>.*))?", re.DOTALL)
_MARKS: dict[State, str] = {"passed": "✓", "partly": "◐", "failed": "✗", "open": "○"}
_COLOURS: dict[State, str] = {
    "passed": "var(--jp-success-color1, #357f50)",
    "partly": "var(--jp-warn-color1, #b8651b)",
    "failed": "var(--jp-error-color1, #b93f38)",
    "open": "var(--jp-ui-font-color2, #6b7178)",
}
_SHOWN = 2000  # characters of what was printed


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one check went. `says` is what it is about, `message` why it failed, `printed` what was printed."""

    grade_id: str
    state: State
    score: float
    points: float
    says: str = ""
    message: str = ""
    printed: str = ""

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """The message in its parts."""
        text = self.message.removeprefix("AssertionError: ")
        found = _MESSAGE.fullmatch(text)
        if found is None:
            return (("", text),) if text else ()
        parts = [("expected", found["expected"]), ("got", found["got"]), ("look", found["look"] or "")]
        return tuple((name, part) for name, part in parts if part)


@dataclass(frozen=True, slots=True)
class TaskVerdict:
    """A task's heading and its checks."""

    title: str
    checks: tuple[Verdict, ...]

    @property
    def score(self) -> float:
        """The points of its visible checks that pass."""
        return sum(check.score for check in self.checks)

    @property
    def points(self) -> float:
        """The points that there are for them."""
        return sum(check.points for check in self.checks)


@dataclass(frozen=True, slots=True)
class Card:
    """What `check` shows: tasks as far as they are checked, and sentences below them."""

    tasks: tuple[TaskVerdict, ...]
    notes: tuple[str, ...] = ()
    left: int = 0  # checks that are still to come

    def as_text(self) -> str:
        """The card as lines."""
        lines = []
        for task in self.tasks:
            lines.append(f"{_plain(task.title)}: {_of(task.score, task.points)}")
            for check in task.checks:
                lines.append(f"  {_MARKS[check.state]} {check.grade_id}: {_state(check)}")
                lines += [f"      {f'{name}: ' if name else ''}{part}" for name, part in check.rows]
                lines += [f"      | {line}" for line in check.printed[-_SHOWN:].splitlines()]
        if self.left:
            lines.append(f"checking … {self.left} to go")
        return "\n".join([*lines, *map(_plain, self.notes)])

    def as_html(self) -> str:
        """The card as a page has it."""
        tasks = "".join(map(_task_html, self.tasks))
        left = f"<p>checking … {self.left} to go</p>" if self.left else ""
        notes = "".join(f"<p>{_prose(note)}</p>" for note in self.notes)
        small = "color: var(--jp-ui-font-color2, #6b7178); font-size: 90%"
        return f'<div class="cnlab-check" role="status">{tasks}<div style="{small}">{left}{notes}</div></div>'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {"text/html": self.as_html(), "text/plain": self.as_text()}


def _task_html(task: TaskVerdict) -> str:
    checks = "".join(map(_check_html, task.checks))
    score = f'<span style="float: right; font-weight: normal">{_of(task.score, task.points)}</span>'
    style = "border: 1px solid var(--jp-border-color2, #d5d3cc); border-radius: 4px; margin: 6px 0"
    head = "padding: 4px 10px; font-weight: 600; background: var(--jp-layout-color2, #f1efe9)"
    return f'<div style="{style}"><div style="{head}">{_prose(task.title)}{score}</div>{checks}</div>'


def _check_html(check: Verdict) -> str:
    mark = f'<strong style="color: {_COLOURS[check.state]}">{_MARKS[check.state]} {_state(check)}</strong>'
    head = f"<code>{html.escape(check.grade_id)}</code> {mark}"
    says = f'<div style="opacity: 0.75">{_prose(check.says)}</div>' if check.says else ""
    details = _table(check.rows) if check.rows else ""
    if printed := check.printed[-_SHOWN:].strip():
        text = f'<pre style="margin: 2px 0; white-space: pre-wrap">{html.escape(printed)}</pre>'
        is_open = "" if check.state == "passed" else " open"
        details += f"<details{is_open}><summary>printed</summary>{text}</details>"
    style = "padding: 4px 10px; border-top: 1px solid var(--jp-border-color2, #d5d3cc)"
    return f'<div style="{style}">{head}{says}{details}</div>'


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cell = "text-align: left; vertical-align: top; padding: 1px 8px 1px 0; background: transparent"
    lines = "".join(
        f'<tr style="background: transparent"><th scope="row" style="{cell}">{name}</th>'
        f'<td style="{cell}; white-space: pre-wrap; overflow-wrap: anywhere">{_prose(part)}</td></tr>'
        for name, part in rows
    )
    return f'<table style="margin: 2px 0 2px 1em; border: 0">{lines}</table>'


def _state(check: Verdict) -> str:
    if check.state == "open":
        return "not answered yet"
    return f"{check.state}, {_of(check.score, check.points)}"


def _of(score: float, points: float) -> str:
    return f"{score:g} of {points:g} point{'' if points == 1 else 's'}"


def _prose(text: str) -> str:
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def _plain(text: str) -> str:
    return text.replace("`", "")
