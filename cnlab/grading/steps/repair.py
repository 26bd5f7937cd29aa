"""Make the notebook that is run out of the course's own cells and the student's.

Interface: `repair` takes the `Master` of a notebook and the cells a student handed in. Pure.

What a cell is (a solution, a check, ...) comes from the course alone. Checks and other locked cells are in
the result exactly once, as the course wrote them, whatever was done to them; the student's cells keep their
order, and lose all metadata. So an honest accident (a check deleted, moved, split, copied; a solution whose
metadata is lost) is mended and named in plain words, and nothing that can be written into a notebook's
metadata decides anything.

Where a check stands: where the student has it, if all that stands before it in the course does so there
too. Otherwise it is put behind all that, and before what follows it in the course.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnlab.grading.job import Role
from cnlab.grading.steps.submission import SubmittedCell

_DEFINED = re.compile(r"^(?:async\s+def|def|class)\s+(\w+)", re.MULTILINE)
_MAX_NOTES = 50


@dataclass(frozen=True, slots=True)
class MasterCell:
    """A cell as the course wrote it: `source` with its hidden tests, `released` as students got it."""

    role: Role
    cell_type: str
    source: str
    released: str
    id: str
    grade_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_graded_by_hand(self) -> bool:
        """Whether a person gives the points: its answer is looked at even if there is none."""
        claims = self.metadata.get("nbgrader", {})
        return bool(claims.get("solution") and claims.get("grade"))

    @property
    def is_locked(self) -> bool:
        """Whether students may not change it."""
        claims = self.metadata.get("nbgrader", {})
        return bool(self.grade_id and not claims.get("solution"))


@dataclass(frozen=True, slots=True)
class Master:
    """A notebook of an assignment as the course wrote it; the answers are the stubs that students got."""

    name: str
    cells: tuple[MasterCell, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repaired:
    """The notebook to run, for each cell its role and grade id, and what had to be mended."""

    notebook: dict[str, Any]  # as JSON has it, nbformat 4.5
    roles: tuple[tuple[Role, str], ...]
    notes: tuple[str, ...]


def repair(master: Master, submitted: Sequence[SubmittedCell]) -> Repaired:
    """Merge the course's cells with the student's."""
    notes: list[str] = []
    matches = _matches(master, submitted, notes)
    kept = [number for number in range(len(submitted)) if matches[number] != _DROPPED]
    skeleton = [number for number in kept if not _is_locked(matches.get(number), master)]
    places = _Places(master, skeleton, {m: n for n, m in matches.items() if m >= 0})
    slots = {index: places.slot(index, notes) for index in places.to_place()}
    cells = [
        _built(master, index, submitted[number] if number is not None else None)
        for index, number in _merged(slots, skeleton, matches)
    ]
    ids = _unique_ids([cell["id"] for cell, _ in cells])
    for (cell, _), own_id in zip(cells, ids, strict=True):
        cell["id"] = own_id
    notebook = {
        "cells": [cell for cell, _ in cells],
        "metadata": copy.deepcopy(dict(master.metadata)),
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return Repaired(notebook, tuple(role for _, role in cells), tuple(notes[:_MAX_NOTES]))


_OWN, _DROPPED = -1, -2  # in place of the index of a master cell


def _is_locked(index: int | None, master: Master) -> bool:
    return index is not None and index >= 0 and master.cells[index].is_locked


def _matches(master: Master, submitted: Sequence[SubmittedCell], notes: list[str]) -> dict[int, int]:
    """Say for each submitted cell which cell of the master it is."""
    by_grade_id: dict[str, list[int]] = {}
    for number, claiming in enumerate(submitted):
        by_grade_id.setdefault(claiming.grade_id, []).append(number)
    found: dict[int, int] = {}
    missing = []
    for index, cell in enumerate(master.cells):
        claims = by_grade_id.get(cell.grade_id, []) if cell.grade_id else []
        if claims:
            found.update(_one_of(claims, index, cell, submitted, notes))
        elif cell.grade_id or cell.id:
            missing.append((index, cell))
    for index, cell in missing:
        lost = _lost(cell, submitted, found)
        if lost is not None:
            found[lost] = index
            if cell.grade_id and not cell.is_locked:
                notes.append(f"the cell `{cell.grade_id}` had lost its name; it was known by what is in it")
    return {number: found.get(number, _OWN) for number in range(len(submitted))}


def _one_of(
    claims: Sequence[int],
    index: int,
    cell: MasterCell,
    submitted: Sequence[SubmittedCell],
    notes: list[str],
) -> dict[int, int]:
    """Choose which of the cells with the same grade id counts: the last one, as in nbgrader.

    An unchanged copy never counts before an edited one, and is left out: it would undo the work.
    """
    edited = [n for n in claims if not _same(submitted[n].source, cell.released)]
    counts = (edited or list(claims))[-1] if not cell.is_locked else claims[-1]
    if len(claims) > 1:
        which = "the last one that was changed" if edited and not cell.is_locked else "the last one"
        notes.append(f"there were {len(claims)} cells `{cell.grade_id}`; {which} counts")
    if cell.is_locked and counts in edited:
        what = "check" if cell.role == "test" else "cell"
        notes.append(f"the {what} `{cell.grade_id}` had been edited; it was set back to the course's")
    elif submitted[counts].cell_type != cell.cell_type:
        notes.append(f"the cell `{cell.grade_id}` had become {submitted[counts].cell_type}; it was set back")
    unchanged = {n: _DROPPED for n in claims if n not in edited}
    return unchanged | {counts: index}


def _lost(cell: MasterCell, submitted: Sequence[SubmittedCell], found: Mapping[int, int]) -> int | None:
    """Find the cell that lost its grade id: by its own id, or by the functions that it defines."""
    free = [n for n, other in enumerate(submitted) if n not in found and not other.grade_id]
    free = [n for n in free if submitted[n].cell_type == cell.cell_type]
    same_id = [n for n in free if cell.id and submitted[n].id == cell.id]
    if same_id:
        return same_id[0]
    names = set(_DEFINED.findall(cell.released))
    if cell.role != "student" or not cell.grade_id or not names:
        return None
    same_names = [n for n in free if names <= set(_DEFINED.findall(submitted[n].source))]
    return same_names[-1] if same_names else None


def _same(one: str, other: str) -> bool:
    return [line.rstrip() for line in one.strip().splitlines()] == [
        line.rstrip() for line in other.strip().splitlines()
    ]


class _Places:
    """Where the course's locked cells go between the student's cells, the skeleton.

    A slot is the number of the skeleton's cells that stand before.
    """

    def __init__(self, master: Master, skeleton: Sequence[int], number_of: Mapping[int, int]) -> None:
        self._master = master
        self._skeleton = skeleton
        self._number_of = number_of
        position = {number: place for place, number in enumerate(skeleton)}
        self._anchors = {index: position[number] for index, number in number_of.items() if number in position}
        self._last_check = 0  # the slot of the last check that was placed: they keep their order

    def to_place(self) -> list[int]:
        """The master cells that must be in the notebook and are no part of the skeleton."""
        return [
            index
            for index, cell in enumerate(self._master.cells)
            if index not in self._anchors and (cell.is_locked or cell.is_graded_by_hand)
        ]

    def slot(self, index: int, notes: list[str]) -> int:
        """Choose the slot of a master cell, and note what had happened to it."""
        cell = self._master.cells[index]
        after, before = self._bounds(index, only_graded=True)
        if cell.role == "test":
            after = max(after, self._last_check)
        slot = self._kept_or_mended(index, after, before, notes)
        if cell.role == "test":
            self._last_check = slot
        return slot

    def _kept_or_mended(self, index: int, after: int, before: int, notes: list[str]) -> int:
        cell = self._master.cells[index]
        number = self._number_of.get(index)
        if number is not None:
            slot = sum(1 for other in self._skeleton if other < number)
            if (slot >= after or cell.role != "test") and slot <= max(before, after):
                return slot
        what = "check" if cell.role == "test" else "answer" if cell.is_graded_by_hand else "cell"
        happened = "was missing; it was put back" if number is None else "had been moved; it was put back"
        notes.append(f"the {what} `{cell.grade_id}` {happened}{self._behind(index)}")
        if cell.role == "test":
            return max(after, min(before, self._bounds(index, only_graded=False, least=after)[1]))
        return min(before, max(after, self._bounds(index, only_graded=False, most=before)[0]))

    def _bounds(
        self, index: int, *, only_graded: bool, least: int = 0, most: int | None = None
    ) -> tuple[int, int]:
        """Return the first slot behind all that precedes, and the last before all that follows."""
        anchors = {
            other: place
            for other, place in self._anchors.items()
            if not only_graded or self._master.cells[other].grade_id
        }
        end = len(self._skeleton)
        after = [p + 1 for o, p in anchors.items() if o < index and (most is None or p + 1 <= most)]
        before = [p for o, p in anchors.items() if o > index and p >= least]
        return max(after, default=0), min(before, default=end)

    def _behind(self, index: int) -> str:
        above = [cell.grade_id for cell in self._master.cells[:index] if cell.grade_id]
        return f" after `{above[-1]}`" if above else " at the top"


def _merged(
    slots: Mapping[int, int], skeleton: Sequence[int], matches: Mapping[int, int]
) -> Iterator[tuple[int, int | None]]:
    """Yield the cells in order: the index in the master or _OWN, and the number in the submission."""
    number_of = {index: number for number, index in matches.items()}
    waiting = sorted(slots, key=lambda index: (slots[index], index), reverse=True)
    for place, number in enumerate([*skeleton, None]):
        while waiting and slots[waiting[-1]] <= place:
            index = waiting.pop()
            yield index, number_of.get(index)
        if number is not None:
            yield matches[number], number


def _built(
    master: Master, index: int, submitted: SubmittedCell | None
) -> tuple[dict[str, Any], tuple[Role, str]]:
    """Build a cell of the notebook to run."""
    own = master.cells[index] if index >= 0 and master.cells[index].grade_id else None
    if own is None:
        assert submitted is not None
        role: Role = "student" if submitted.cell_type == "code" else "text"
        return _cell(submitted.cell_type, submitted.source, submitted.id, {}, submitted), (role, "")
    is_answer = submitted is not None and not own.is_locked
    source = submitted.source if submitted is not None and is_answer else own.source
    return (
        _cell(own.cell_type, source, own.id, own.metadata, submitted if is_answer else None),
        (own.role, own.grade_id),
    )


def _cell(
    cell_type: str, source: str, own_id: str, metadata: Mapping[str, Any], submitted: SubmittedCell | None
) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "cell_type": cell_type,
        "id": own_id,
        "metadata": copy.deepcopy(dict(metadata)),
        "source": source,
    }
    if cell_type == "code":
        cell |= {"execution_count": None, "outputs": []}
    elif submitted is not None and submitted.attachments:
        cell["attachments"] = {name: dict(bundle) for name, bundle in submitted.attachments.items()}
    return cell


def _unique_ids(ids: Sequence[str]) -> list[str]:
    taken: set[str] = set()
    unique = []
    for number, own_id in enumerate(ids):
        name = own_id
        while not name or name in taken:
            name = f"cell-{number}" if not name else f"{name[:50]}-{number}"
        taken.add(name)
        unique.append(name)
    return unique
