"""Where services and the calls between them stand in a picture: pure geometry, in columns and rows.

A service stands right of all that call it. A call that skips a column keeps a place free there, so that it
leads past the services in between and not behind them. Each column is then put into the order in which its
calls cross least: every service at the mean height of its neighbours, a few times over.

See: Sugiyama, Tagawa, Toda, "Methods for Visual Understanding of Hierarchical System Structures", 1981.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Call = tuple[str, str]
Place = tuple[float, float]
"""Column and row; both grow away from the top left corner."""
_Slot = str | tuple[str, str, int]  # a service, or a call's place in a column that it skips
_SWEEPS = 6


@dataclass(frozen=True, slots=True)
class Layout:
    """The place of each service, and the places that each call leads through, from its caller's on."""

    places: Mapping[str, Place]
    ways: Mapping[Call, tuple[Place, ...]]
    columns: int
    rows: int


def columns_of(calls: Iterable[Call]) -> list[list[str]]:
    """Put services in columns: each right of all that call it, as far as the calls go round no circle."""
    pairs = list(calls)
    column = dict.fromkeys([name for pair in pairs for name in pair], 0)
    onwards = [pair for pair in pairs if not _leads_to(pair[1], pair[0], pairs)]
    for _ in column:  # the longest way has at most as many services as there are
        for source, destination in onwards:
            column[destination] = max(column[destination], column[source] + 1)
    return [
        sorted(name for name, place in column.items() if place == number)
        for number in sorted(set(column.values()))
    ]


def _leads_to(start: str, end: str, calls: Sequence[Call]) -> bool:
    """Whether calls that begin at `start` come to `end`."""
    seen, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        waiting += [
            destination for source, destination in calls if source == here and destination not in seen
        ]
        seen.update(waiting)
    return end in seen


def lay_out(calls: Iterable[Call]) -> Layout:
    """Give every service that calls or is called, and every call, its place."""
    calls = list(dict.fromkeys(calls))
    names = columns_of(calls)
    column = {name: number for number, members in enumerate(names) for name in members}
    slots: list[list[_Slot]] = [list(members) for members in names]
    chains: dict[Call, list[_Slot]] = {}
    for source, destination in calls:
        skipped = range(column[source] + 1, column[destination])
        between: list[_Slot] = [(source, destination, number) for number in skipped]
        for number, slot in zip(skipped, between, strict=True):
            slots[number].append(slot)
        chains[source, destination] = [source, *between, destination]
    _untangle(slots, [pair for chain in chains.values() for pair in pairwise(chain)])
    rows = max((len(members) for members in slots), default=0)
    places = {
        slot: (float(x), y + (rows - len(members)) / 2)
        for x, members in enumerate(slots)
        for y, slot in enumerate(members)
    }
    ways = {call: tuple(places[slot] for slot in chain) for call, chain in chains.items()}
    return Layout({name: places[name] for name in column}, ways, len(slots), rows)


def _untangle(columns: list[list[_Slot]], links: Sequence[tuple[_Slot, _Slot]]) -> None:
    """Sort each column by the mean height of its neighbours, to the right and back."""
    neighbours: dict[_Slot, list[_Slot]] = {}
    for one, other in links:
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    for sweep in range(_SWEEPS):
        for members in columns if sweep % 2 == 0 else reversed(columns):
            heights = {slot: y - (len(column) - 1) / 2 for column in columns for y, slot in enumerate(column)}

            def mean(slot: _Slot, heights: Mapping[_Slot, float] = heights) -> float:
                around = [heights[one] for one in neighbours.get(slot, []) if one in heights]
                return sum(around) / len(around) if around else heights[slot]

            members.sort(key=mean)
