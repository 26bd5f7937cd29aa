"""Tick boxes and a table: what can be done when these are ticked, tried anew at every change.

Interface: ``Attempts(try_out, choices)`` as the last value of a cell. `try_out` gets what is ticked and
returns for each attempt the reason why it failed, or nothing. The static form is the table of the first run.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnlab.widgets.mimebundle import mimebundle

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

Reasons = Mapping[str, str]
_STATIC_NOTE = "In a running notebook, boxes give and take these: {}."


class Attempts:
    """What works, with what is ticked.

    Args:
        try_out: tries everything with the choices that it is given, and returns the reasons by attempt.
        choices: what can be ticked.
        ticked: what is at first.
    """

    def __init__(
        self,
        try_out: Callable[[frozenset[str]], Reasons],
        choices: Sequence[str],
        *,
        ticked: Iterable[str] = (),
    ) -> None:
        self._try_out = try_out
        self._choices = tuple(choices)
        self._boxes: dict[str, Any] = {}
        self._table: Any = None
        self.ticked = frozenset(ticked)
        self.reasons = dict(try_out(self.ticked))

    def tick(self, *choices: str) -> None:
        """Tick these boxes and no others, and try everything anew."""
        self.ticked = frozenset(choices)
        self.reasons = dict(self._try_out(self.ticked))
        if self._table is not None:
            self._table.value = self.table()

    def table(self) -> str:
        """Return the table as HTML."""
        rows = [
            f'<tr><td style="text-align:left">{html.escape(attempt)}</td>'
            f'<td style="text-align:left">{html.escape(reason) or "<b>works</b>"}</td></tr>'
            for attempt, reason in self.reasons.items()
        ]
        return f"<table><tbody>{''.join(rows)}</tbody></table>"

    def __repr__(self) -> str:
        lines = [f"{attempt}: {reason or 'works'}" for attempt, reason in self.reasons.items()]
        return "\n".join([f"With {self._words()}:", *lines])

    def _words(self) -> str:
        return ", ".join(choice for choice in self._choices if choice in self.ticked) or "none of them"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        note = _STATIC_NOTE.format(", ".join(self._choices))
        static = f"<p>With {html.escape(self._words())}:</p>{self.table()}<p>{html.escape(note)}</p>"
        return mimebundle(self._live(), static_html=static, text=repr(self))

    def _live(self) -> DOMWidget:
        import ipywidgets

        self._boxes = {
            choice: ipywidgets.Checkbox(choice in self.ticked, description=choice, indent=False)
            for choice in self._choices
        }
        for box in self._boxes.values():
            box.observe(self._on_change, names="value")
        self._table = ipywidgets.HTML(self.table())
        return ipywidgets.VBox([*self._boxes.values(), self._table])

    def _on_change(self, change: object) -> None:
        self.tick(*(choice for choice, box in self._boxes.items() if box.value))
