"""The report as one HTML page: no script, nothing from elsewhere, light and dark, its pictures in words too.

What students have written stands in it as text only: all of it is escaped, and the page's own policy lets a
browser run no script and load nothing.
"""

from __future__ import annotations

import base64
import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from cnlab.grading.report import figures
from cnlab.grading.report.figures import DARK, LIGHT, Look, Picture
from cnlab.grading.report.records import ClassRecord, plain
from cnlab.grading.report.similarity import Pair, side_by_side
from cnlab.grading.report.tables import Table

MOST_ROWS = 200
MOST_PAIRS = 20
MOST_CHARACTERS = 160  # of a line of code beside another

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = Path(__file__).with_name("page.css")


def report_page(
    record: ClassRecord,
    tables: Mapping[str, Table],
    pairs: Sequence[Pair] = (),
    answers: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Return the page; `answers` are what `pairs` were compared by."""
    sections = [(name, title, body) for name, title, body in _sections(tables) if body and name != "similar"]
    if pairs:
        sections.append(("similar", "Alike", _alike(tables["similar"], pairs, answers or {})))
    sections.append(
        ("all", "All students", _table(tables["students"], "students", at_most=len(record.students)))
    )
    title = escape(plain(record.assignment))
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
    bodies = "".join(
        f'<section id="{name}"><h2>{heading}</h2>{body}</section>' for name, heading, body in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: how it went</title><style>{_STYLE.read_text()}</style></head><body>"
        f"<header><h1>{title}: how it went</h1>{_due(record)}</header>{_in_short(record, tables)}"
        f"<nav>{links}</nav><main>{bodies}</main></body></html>\n"
    )


def _sections(tables: Mapping[str, Table]) -> Iterator[tuple[str, str, str]]:
    """Give each section's name, heading and content; nothing where there is nothing to say."""
    students, tasks, checks = tables["students"], tables["tasks"], tables["checks"]
    percents = students.numbers("percent")
    yield "distribution", "How the class did", _picture(lambda look: figures.distribution(percents, look))
    yield "tasks", "Task by task", _shares(tasks, "task") + _table(tasks, "tasks")
    yield "checks", "The hardest checks", _shares(checks, "check") + _table(checks, "checks")
    yield "reasons", "Why checks fail", _table(_in_brief(tables["reasons"]), "reasons")
    seconds = students.numbers("seconds")
    yield "times", "How long submissions ran", _picture(lambda look: figures.times(seconds, look), seconds)
    hours = students.numbers("hours after due")
    came = _picture(lambda look: figures.arrivals(hours, look), hours)
    yield "late", "When they came", came + _table(tables["late"], "late")
    yield "events", "What the sandbox refused or ended", _table(tables["events"], "events")
    yield "repairs", "What was put right before it ran", _table(tables["repairs"], "repairs")
    yield "troubles", "Troubles of the runs", _table(tables["troubles"], "troubles")


def _in_brief(reasons: Table) -> Table:
    """Name of each reason's students, which stand last, only the first; the file has all."""
    rows = tuple((*row[:-1], textwrap.shorten(str(row[-1]), 120, placeholder=" …")) for row in reasons.rows)
    return Table(reasons.headings, rows)


def _due(record: ClassRecord) -> str:
    due = f"Due {record.due:%Y-%m-%d %H:%M} UTC. " if record.due else ""
    return f'<p class="muted">{due}{record.max_score:g} points in {len(record.checks)} checks.</p>'


def _in_short(record: ClassRecord, tables: Mapping[str, Table]) -> str:
    percents = tables["students"].numbers("percent")
    waiting = sum(submission.needs_person for _, submission in record.submitted)
    short = {
        "students": str(len(record.students)),
        "handed in": str(len(record.submitted)),
        "median": f"{statistics.median(percents):.0f} %" if percents else "none",
        "mean": f"{statistics.fmean(percents):.0f} %" if percents else "none",
        "late": str(len(tables["late"].rows)),
        "wait for a person": str(waiting),
        "refused or ended": str(len(tables["events"].rows)),
        "stand out as alike": str(len(tables["similar"].rows)),
    }
    items = (f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in short.items())
    return f"<dl>{''.join(items)}</dl>"


def _shares(table: Table, heading: str) -> str:
    names = table.texts(heading)
    counts = [table.numbers(column) for column in ("all points", "some", "none")]
    return _picture(lambda look: figures.shares(names, counts[0], counts[1], counts[2], look), names)


def _picture(draw: Callable[[Look], Picture], values: Sequence[object] = (0,)) -> str:
    """Draw a figure in both looks; the reader's browser takes the one that fits. Nothing without values."""
    if not values:
        return ""
    light, dark = draw(LIGHT), draw(DARK)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{_data(dark)}">'
        f'<img src="{_data(light)}" width="{light.width_px}" alt="{escape(light.alt)}"></picture>'
    )


def _data(picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.png()).decode()}"


def _table(table: Table, name: str, *, at_most: int = MOST_ROWS) -> str:
    """Return a table that scrolls in its own box; nothing for an empty one."""
    if not table.rows:
        return ""
    left_out = len(table.rows) - at_most
    more = f'<p class="muted">{left_out} more rows are in {name}.csv.</p>' if left_out > 0 else ""
    shown = Table(table.headings, table.rows[:at_most])
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">{shown.html()}</div>{more}'


def _alike(table: Table, pairs: Sequence[Pair], answers: Mapping[str, Mapping[str, str]]) -> str:
    said = (
        "<p>What these students have written themselves, without comments, layout and the names of variables,"
        " is more alike than is usual in this class. That is a reason to look, and no proof.</p>"
    )
    details = "".join(_pair(pair, answers) for pair in pairs[:MOST_PAIRS])
    return said + _table(table, "similar") + details


def _pair(pair: Pair, answers: Mapping[str, Mapping[str, str]]) -> str:
    first, second = answers.get(pair.first, {}), answers.get(pair.second, {})
    names = [name for name in pair.parts if name in first and name in second]
    who = f"{escape(plain(pair.first))} and {escape(plain(pair.second))}"
    codes = "".join(
        f"<h3>{escape(plain(name)) or 'Cells of their own'}</h3>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="two answers"><table class="code"><tbody>'
        f"{''.join(_lines(first[name], second[name]))}</tbody></table></div>"
        for name in names
    )
    return f"<details><summary>{who}: {100 * pair.score:.0f} % alike</summary>{codes}</details>"


def _lines(first: str, second: str) -> Iterator[str]:
    for left, right, is_same in side_by_side(plain(first), plain(second)):
        cells = "".join(f"<td>{escape(line[:MOST_CHARACTERS])}</td>" for line in (left, right))
        yield f"<tr>{cells}</tr>" if is_same else f'<tr class="differs">{cells}</tr>'
