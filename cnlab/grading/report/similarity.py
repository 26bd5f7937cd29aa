"""Which submissions resemble each other more than the class does.

Interface: `similar_pairs` compares what students have written, less what they were given; `answers_of` takes
that from a notebook; `side_by_side` sets two answers beside each other, line by line.

Before they are compared, comments, layout and strings go, and names that a student has chosen become one and
the same, so that renaming variables hides nothing. Lines of the release do not count. Two short right answers
are alike by nature: so a pair is named only if it stands out from what is usual in its class. That is a
reason to look at it, and proves nothing.
"""

from __future__ import annotations

import builtins
import difflib
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from numpy.typing import NDArray

LEAST_TOKENS = 30  # below, an answer is too short to be somebody's own
LEAST_SCORE = 0.8
ALL_BUT_THE_SAME = 0.97
MOST_CHARACTERS = 100_000  # of one cell, and
MOST_TOKENS = 8_000  # of one student; both far above what a lab asks for

_TOKEN = re.compile(
    r"""
    (?P<skip>\#[^\n]*|\\\n|[^\S\n]+)
    |(?P<string>[A-Za-z]{0,2}(?:'''(?:[^\\']|\\.|'(?!''))*+'''|\"""(?:[^\\"]|\\.|"(?!""))*+\"""
                |'(?:[^\\'\n]|\\.)*+'|"(?:[^\\"\n]|\\.)*+"))
    |(?P<name>[^\W\d]\w*)
    |(?P<number>\.?\d[\w.]*)
    |(?P<newline>\n)
    |(?P<operator>\*\*=?|//=?|<<=?|>>=?|->|:=|[-+*/%&|^@=!<>]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_KNOWN = frozenset(keyword.kwlist) | frozenset(dir(builtins)) | {"self", "cls"}

Line = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two students and how alike their answers are, from 0 to 1: in all, and answer by answer."""

    first: str
    second: str
    score: float
    usual: float  # the median of all pairs of the class
    parts: Mapping[str, float]


def similar_pairs(
    answers: Mapping[str, Mapping[str, str]],
    released: Iterable[str] = (),
    *,
    at_least: float = LEAST_SCORE,
    at_most: int = 50,
) -> list[Pair]:
    """Return the pairs that stand out, the most alike first.

    Args:
        answers: by student, the code of each answer by its name.
        released: what all students were given; its lines and names count for nobody.
        at_least: the lowest score to name.
        at_most: how many pairs to name.
    """
    from rapidfuzz.distance import Indel
    from rapidfuzz.process import cdist

    given = [lines_of(text) for text in released]
    names = _KNOWN.union(token for lines in given for line in lines for token in line if token.isidentifier())
    known = frozenset(normalised(line, names) for lines in given for line in lines)
    own = {student: _own(parts, names, known) for student, parts in answers.items()}
    tokens = {student: [each for lines in parts.values() for each in lines] for student, parts in own.items()}
    students = sorted(student for student, kept in tokens.items() if len(kept) >= LEAST_TOKENS)
    if len(students) < 2:
        return []
    spelled = _spelled(tokens[student] for student in students)
    scores = cdist(spelled, spelled, scorer=Indel.normalized_similarity, workers=-1, dtype=np.float32)
    rows, columns = np.triu_indices(len(students), k=1)
    each = scores[rows, columns]
    usual = float(np.median(each))
    least = max(at_least, _standing_out(each)) if len(students) > 2 else at_least
    order = np.argsort(-each, kind="stable")[:at_most]
    return [
        Pair(
            students[rows[place]],
            students[columns[place]],
            round(float(each[place]), 4),
            round(usual, 4),
            _parts(own[students[rows[place]]], own[students[columns[place]]]),
        )
        for place in order
        if each[place] >= least
    ]


def answers_of(notebook: NotebookNode) -> dict[str, str]:
    """Return the code of each answer by its grade id; what stands in cells of the student's own is ``""``."""
    answers: dict[str, str] = {}
    for cell in notebook.cells:
        graded = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and not graded.get("locked"):
            name = str(graded.get("grade_id", "")) if graded.get("solution") else ""
            answers[name] = "\n".join(filter(None, (answers.get(name), str(cell.source))))
    return answers


def lines_of(code: str) -> list[Line]:
    """Return the tokens of each line of `code` that has any, whether it is Python or not."""
    lines: list[Line] = []
    line: list[str] = []
    for match in _TOKEN.finditer(code[:MOST_CHARACTERS]):
        if match.lastgroup == "newline":
            lines.append(tuple(line))
            line = []
        elif match.lastgroup != "skip":
            line.append('"' if match.lastgroup == "string" else match[0])
    lines.append(tuple(line))
    return [each for each in lines if each]


def normalised(line: Line, names: frozenset[str]) -> Line:
    """Return `line` with one name for all names that are not among `names`; attributes stay."""
    before = ("", *line)
    return tuple(
        "a" if token.isidentifier() and token not in names and previous != "." else token
        for previous, token in zip(before, line, strict=False)
    )


def side_by_side(first: str, second: str, *, at_most: int = 300) -> Iterator[tuple[str, str, bool]]:
    """Give the lines of two answers that stand beside each other, and whether they are the same."""
    left, right = first.splitlines()[:at_most], second.splitlines()[:at_most]
    bare = [[re.sub(r"\s+", "", line) for line in lines] for lines in (left, right)]
    matcher = difflib.SequenceMatcher(None, bare[0], bare[1], autojunk=False)
    for kind, from_left, to_left, from_right, to_right in matcher.get_opcodes():
        for place in range(max(to_left - from_left, to_right - from_right)):
            mine = left[from_left + place] if from_left + place < to_left else ""
            yours = right[from_right + place] if from_right + place < to_right else ""
            yield mine, yours, kind == "equal"


def _own(parts: Mapping[str, str], names: frozenset[str], known: frozenset[Line]) -> dict[str, list[str]]:
    """Return the tokens of each answer that the student has brought."""
    own: dict[str, list[str]] = {}
    room = MOST_TOKENS
    for name, code in sorted(parts.items()):
        lines = (normalised(line, names) for line in lines_of(code))
        own[name] = [token for line in lines if line not in known and line != ('"',) for token in line][:room]
        room -= len(own[name])
    return own


def _parts(first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]]) -> dict[str, float]:
    from rapidfuzz.distance import Indel

    return {
        name: round(Indel.normalized_similarity(first[name], second[name]), 4)
        for name in sorted(first.keys() & second.keys())
        if first[name] and second[name]
    }


def _spelled(answers: Iterable[Sequence[str]]) -> list[str]:
    """Write each token as one character of its own: strings compare many times faster than lists."""
    alphabet: dict[str, str] = {}
    first = 0xF0000  # above what anybody types, and clear of the surrogates
    return [
        "".join(alphabet.setdefault(token, chr(min(first + len(alphabet), 0x10FFFF))) for token in answer)
        for answer in answers
    ]


def _standing_out(scores: NDArray[np.float32]) -> float:
    """Return the score from which a pair stands out; what is all but the same does so in every class."""
    usual = np.median(scores)
    spread = 1.4826 * np.median(np.abs(scores - usual))  # the standard deviation, were they normal
    return float(min(ALL_BUT_THE_SAME, usual + 4 * spread))
