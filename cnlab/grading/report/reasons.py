"""Why checks fail: messages that say the same are counted together, whatever numbers are in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ALIKE = 88  # per cent, of what is left when numbers and quoted values are gone
MOST_CHARACTERS = 400  # of a message, to compare
MOST_KINDS = 300  # of messages for one check; what is rarer is counted as "other"

_VALUES = (
    (re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`"), "…"),
    (re.compile(r"(?:/[\w.+@-]+)+"), "/…"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b|\d[\d_.,:eE+-]*"), "#"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason why a check failed: its commonest message, and whom it was told, first come first."""

    check: str
    message: str
    students: tuple[str, ...]


def common_reasons(messages: Iterable[tuple[str, str, str]]) -> list[Reason]:
    """Count messages, given as check, student and text; the reasons that most students met come first."""
    by_check: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for check, student, text in messages:
        by_check.setdefault(check, {}).setdefault(gist(text), []).append((student, text))
    found = [reason for check, kinds in by_check.items() for reason in _merged(check, kinds)]
    return sorted(found, key=lambda reason: -len(reason.students))


def gist(text: str) -> str:
    """Return a message without what differs from student to student: numbers, paths, quoted values."""
    for pattern, instead in _VALUES:
        text = pattern.sub(instead, text[:MOST_CHARACTERS])
    return text.strip()


def _merged(check: str, kinds: Mapping[str, Sequence[tuple[str, str]]]) -> list[Reason]:
    """Join each kind of message to the first, more frequent one that it resembles."""
    from rapidfuzz import fuzz, process

    ordered = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))
    groups: dict[str, list[tuple[str, str]]] = {}
    for kind in ordered[:MOST_KINDS]:
        alike = process.extractOne(kind, list(groups), scorer=fuzz.ratio, score_cutoff=ALIKE)
        groups.setdefault(alike[0] if alike else kind, []).extend(kinds[kind])
    reasons = [
        Reason(
            check,
            Counter(text for _, text in group).most_common(1)[0][0],
            tuple(dict.fromkeys(student for student, _ in group)),
        )
        for group in groups.values()
    ]
    if rest := [each for kind in ordered[MOST_KINDS:] for each in kinds[kind]]:
        reasons.append(Reason(check, "other messages", tuple(dict.fromkeys(student for student, _ in rest))))
    return reasons
