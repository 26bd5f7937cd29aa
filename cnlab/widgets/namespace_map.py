"""The live map: which process is in which namespace, read from ``/proc``.

One column a process, one row a kind of namespace. Neighbours in the same namespace share one box. Boxes in
grey are the notebook's own namespaces; each colour is a namespace that the notebook is not in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cnlab.linux.namespaces import KINDS, Namespace, spawn
from cnlab.linux.processes import Process, processes
from cnlab.widgets.mimebundle import mimebundle, picture_to_html
from cnlab.widgets.picture import ACCENTS, INK, MUTED, PAPER, QUIET, Picture, bare_axes, new_figure, picture
from cnlab.widgets.process_tree import descendants

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

PROGRAM = ("sleep", "infinity")
_MOST = 7  # processes that a picture has room for


@dataclass(frozen=True, slots=True)
class Box:
    """Neighbouring columns, from `start` on, that are in one namespace; None where `/proc` does not tell."""

    start: int
    width: int
    namespace: Namespace | None


def boxes(row: Sequence[Process], kind: str) -> list[Box]:
    """Return the boxes of one kind for processes standing side by side."""
    found: list[Box] = []
    for column, process in enumerate(row):
        namespace = process.namespaces.get(kind)
        if found and found[-1].namespace == namespace:
            found[-1] = Box(found[-1].start, found[-1].width + 1, namespace)
        else:
            found.append(Box(column, 1, namespace))
    return found


def colours(row: Sequence[Process]) -> dict[Namespace, str]:
    """Return a colour for each namespace: quiet for the first process's, then one for each newcomer's."""
    chosen = dict.fromkeys(row[0].namespaces.values(), QUIET)
    newcomers = 0
    for process in row[1:]:
        new = [namespace for namespace in process.namespaces.values() if namespace not in chosen]
        chosen.update(dict.fromkeys(new, ACCENTS[newcomers % len(ACCENTS)]))
        newcomers += bool(new)
    return chosen


def kinds_of(row: Iterable[Process]) -> list[str]:
    """Return the kinds that this kernel has, in the order of `KINDS`."""
    present = {kind for process in row for kind in process.namespaces}
    return [kind for kind in KINDS if kind in present]


def label(process: Process) -> str:
    """Name a process and its numbers, from ours down to the one it knows itself by."""
    return f"{process.name}\n{' → '.join(map(str, process.nspids))}"


def draw_namespaces(row: Sequence[Process]) -> Picture:
    """Draw the map of processes standing side by side; the first is the one we compare with."""
    from matplotlib.patches import FancyBboxPatch

    kinds, chosen = kinds_of(row), colours(row)
    figure = new_figure(max(4.0, 0.8 + 1.15 * len(row)), 0.62 + 0.33 * len(kinds))
    axes = bare_axes(figure)
    axes.set_xlim(-0.6, len(row))
    axes.set_ylim(len(kinds), -1.5)
    for column, process in enumerate(row):
        axes.text(
            column + 0.5, -0.7, label(process), ha="center", va="center", color=INK, weight="bold", fontsize=8
        )
    for y, kind in enumerate(kinds):
        axes.text(-0.1, y + 0.5, kind, ha="right", va="center", color=INK, family="monospace", fontsize=9)
        for box in boxes(row, kind):
            if box.namespace is None:
                continue
            fill = chosen[box.namespace]
            patch = FancyBboxPatch(
                (box.start + 0.04, y + 0.1),
                box.width - 0.08,
                0.8,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=fill,
                edgecolor="none",
            )
            axes.add_patch(patch)
            ink = MUTED if fill == QUIET else PAPER
            middle = box.start + box.width / 2
            axes.text(
                middle, y + 0.5, str(box.namespace.inode), ha="center", va="center", color=ink, fontsize=7.5
            )
    return picture(figure, alt=describe_namespaces(row))


def describe_namespaces(row: Sequence[Process]) -> str:
    """Say in words what `draw_namespaces` draws."""
    home = set(row[0].namespaces.values())
    told = []
    for process in row[1:]:
        apart = [kind for kind, namespace in process.namespaces.items() if namespace not in home]
        told.append(f"{process.name} ({process.pid}) is apart in {', '.join(sorted(apart)) or 'nothing'}")
    return (
        f"Map of namespaces, compared with {row[0].name} ({row[0].pid}): {'; '.join(told) or 'nobody else'}."
    )


def below_notebook() -> list[Process]:
    """Return this process and its descendants, read from ``/proc`` now."""
    return [process for _, process in descendants(processes(), os.getpid())]


class NamespaceMap:
    """The live map of this notebook and its children, with buttons that start and end processes.

    Use it in a ``with`` block or call `close`: the processes it started end with it.
    """

    def __init__(self) -> None:
        self._stacks: list[contextlib.ExitStack] = []
        self._redraws: list[Callable[[], None]] = []  # one for each place where the map is shown

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, *kinds: str, program: Sequence[str] = PROGRAM) -> int:
        """Start a process, by default one that sleeps, in new namespaces of `kinds`; return its pid."""
        stack = contextlib.ExitStack()
        child = stack.enter_context(spawn(program, new=kinds))
        self._stacks.append(stack)
        self._redraw()
        return child.pid

    def end(self) -> None:
        """End the process that was started last, if there is one."""
        if self._stacks:
            self._stacks.pop().close()
            self._redraw()

    def close(self) -> None:
        """End all processes that were started here."""
        while self._stacks:
            self._stacks.pop().close()
        self._redraw()

    def picture(self) -> Picture:
        """Draw the map as it is now."""
        return draw_namespaces(below_notebook()[:_MOST])

    def _redraw(self) -> None:
        for redraw in self._redraws:
            redraw()

    def _live(self, now: Picture) -> DOMWidget:
        import ipywidgets as widgets

        here = kinds_of(below_notebook())
        narrow = widgets.Layout(width="5.5em")
        wanted = [widgets.ToggleButton(description=kind, layout=narrow) for kind in here]
        start = widgets.Button(description="start a process", icon="plus")
        end = widgets.Button(description="end the last", icon="minus")
        again = widgets.Button(description="look again", icon="refresh")
        message = widgets.Label()
        image = widgets.Image(value=now.png(), width=now.width_px)

        def redraw(_button: object = None) -> None:
            now = self.picture()
            image.value, image.width = now.png(), str(now.width_px)
            start.disabled, end.disabled = len(self._stacks) >= _MOST - 1, not self._stacks

        def start_one(_button: object) -> None:
            kinds = [button.description for button in wanted if button.value]
            try:
                pid = self.start(*kinds)
                message.value = (
                    f"started {pid} with new: {', '.join(kinds) or 'none, all shared with the notebook'}"
                )
            except OSError as error:
                message.value = str(error)

        def end_one(_button: object) -> None:
            self.end()
            message.value = "ended the last one; a namespace without members is gone"

        start.on_click(start_one)
        end.on_click(end_one)
        again.on_click(redraw)
        self._redraws.append(redraw)
        chooser = widgets.HBox([widgets.Label("new:"), *wanted], layout=widgets.Layout(flex_flow="row wrap"))
        return widgets.VBox([chooser, widgets.HBox([start, end, again]), message, image])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        now = self.picture()
        return mimebundle(self._live(now), static_html=picture_to_html(now), text=now.alt)
