"""What this machine allows, as a table to look at."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnlab.host import Feature

_MARKS = {True: "✓", False: "✗"}


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """The features of a machine: a table in a front end and in the book, lines on a terminal."""

    features: tuple[Feature, ...]

    def as_text(self) -> str:
        """One line a feature: mark, name, how we know, and what to do where it is missing."""
        width = max(len(feature.name) for feature in self.features)
        lines = []
        for feature in self.features:
            advice = f" (hint: {feature.hint})" if feature.hint else ""
            lines.append(f"{_MARKS[feature.is_available]} {feature.name:{width}}  {feature.detail}{advice}")
        return "\n".join(lines)

    def as_html(self) -> str:
        """The same as a table."""
        rows = "".join(_row(feature) for feature in self.features)
        left = 'style="text-align: left"'
        head = f"<tr><th></th><th {left}>feature</th><th {left}>how we know</th></tr>"
        return f'<table class="cnlab-features"><thead>{head}</thead><tbody>{rows}</tbody></table>'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {"text/html": self.as_html(), "text/plain": self.as_text()}


def feature_table(features: Sequence[Feature]) -> FeatureTable:
    """Return the table of `features`, which `cnlab.host.features` finds out."""
    return FeatureTable(tuple(features))


def _row(feature: Feature) -> str:
    told = html.escape(feature.detail)
    if feature.hint:
        told += f"<br><em>{html.escape(feature.hint)}</em>"
    cells = (_MARKS[feature.is_available], f"<code>{feature.name}</code>", told)
    style = "text-align: left; vertical-align: top"
    return "<tr>" + "".join(f'<td style="{style}">{cell}</td>' for cell in cells) + "</tr>"
