"""A table that is at once a CSV file, a part of a page and a value to look at in a notebook.

Text in it may come from students: in HTML it is escaped, in CSV it begins no formula.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from cnlab.grading.report.export import csv_text, safe
from cnlab.grading.report.records import plain

Cell = str | float | None
MOST_CHARACTERS = 2_000  # of one cell
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns of text and numbers; None is not known."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def column(self, heading: str) -> list[Cell]:
        """Return all of one column."""
        place = self.headings.index(heading)
        return [row[place] for row in self.rows]

    def numbers(self, heading: str) -> list[float]:
        """Return the numbers of one column."""
        return [cell for cell in self.column(heading) if isinstance(cell, int | float)]

    def texts(self, heading: str) -> list[str]:
        """Return one column as text."""
        return [spelled(cell) for cell in self.column(heading)]

    def html(self) -> str:
        """Return the table as HTML in which nothing of its content is markup."""
        heads = "".join(
            f'<th scope="col"{_kind(self.column(each))}>{escape(each)}</th>' for each in self.headings
        )
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(map(_row, self.rows))}</tbody></table>"

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        lines = [self.headings, *(tuple(map(spelled, row)) for row in self.rows)]
        return "\n".join(" | ".join(line) for line in lines)

    def write(self, path: Path) -> None:
        """Write it as CSV."""
        rows = [[_csv_cell(cell) for cell in row] for row in self.rows]
        path.write_text(csv_text([self.headings, *rows]), encoding="utf-8", newline="")


def read(path: Path | str) -> Table:
    """Read a table that `Table.write` wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        headings, *rows = csv.reader(file)
    return Table(tuple(headings), tuple(tuple(map(_cell, row)) for row in rows))


def spelled(cell: Cell) -> str:
    """Return what a cell shows: at most two decimals, and nothing for what is not known."""
    if cell is None:
        return ""
    return plain(cell[:MOST_CHARACTERS]) if isinstance(cell, str) else f"{cell:.2f}".rstrip("0").rstrip(".")


def _csv_cell(cell: Cell) -> str:
    return safe(spelled(cell)) if isinstance(cell, str) else spelled(cell)


def _cell(text: str) -> Cell:
    """Read a cell back; a student called 007 stays one."""
    return float(text) if _NUMBER.fullmatch(text) else text or None


def _row(row: Sequence[Cell]) -> str:
    cells = (f"<td{_kind([cell])}>{escape(spelled(cell))}</td>" for cell in row)
    return f"<tr>{''.join(cells)}</tr>"


def _kind(cells: Sequence[Cell]) -> str:
    """Return the attribute that puts numbers at the right and text, also in JupyterLab, at the left."""
    is_text = any(isinstance(cell, str) for cell in cells)
    return ' style="text-align:left"' if is_text else ' class="n"'
