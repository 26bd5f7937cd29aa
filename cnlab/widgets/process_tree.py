"""The processes around this notebook as a tree, with a slider that starts and ends some of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cnlab.linux import namespaces
from cnlab.linux.processes import Process, processes
from cnlab.widgets.mimebundle import mimebundle, picture_to_html
from cnlab.widgets.picture import BLUE, GREEN, INK, LINE, MUTED, Picture, bare_axes, new_figure, picture

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

SLEEPER = ("sleep", "infinity")
_ROW_IN = 0.26


def ancestors(everyone: Iterable[Process], pid: int) -> list[Process]:
    """Return the parents of `pid` up to the first process of this pid namespace, eldest first."""
    by_pid = {process.pid: process for process in everyone}
    line: list[Process] = []
    parent = by_pid.get(by_pid[pid].ppid)
    while parent:
        line.insert(0, parent)
        parent = by_pid.get(parent.ppid)
    return line


def descendants(everyone: Sequence[Process], pid: int, depth: int = 0) -> list[tuple[int, Process]]:
    """Return `pid` and all below it with their depths, each parent before its children."""
    found = [(depth, process) for process in everyone if process.pid == pid]
    for process in everyone:
        if process.ppid == pid:
            found += descendants(everyone, process.pid, depth + 1)
    return found


def is_kernel_thread(process: Process) -> bool:
    """Whether it is a thread of the kernel itself: it executes no program, so it has no command line."""
    return not process.cmdline and not process.is_zombie


def draw_family(everyone: Sequence[Process], pid: int) -> Picture:
    """Draw the line from process 1 to `pid`, and everything below `pid`."""
    line = ancestors(everyone, pid)
    rows = [*enumerate(line), *descendants(everyone, pid, len(line))]
    kernel_threads = sum(map(is_kernel_thread, everyone))
    others = len(everyone) - kernel_threads - len(rows)
    figure = new_figure(8, _ROW_IN * (len(rows) + 1.2))
    axes = bare_axes(figure)
    axes.set_xlim(0, 8)
    axes.set_ylim(len(rows) + 1.1, 0)
    last_row: dict[int, int] = {}
    for row, (depth, process) in enumerate(rows):
        x, y = 0.25 + 0.35 * depth, row + 0.5
        if depth:
            axes.plot([x - 0.35, x - 0.35, x - 0.08], [last_row[depth - 1] + 0.75, y, y], color=LINE, lw=1.2)
        last_row[depth] = row
        colour = BLUE if process.pid == pid else GREEN if row >= len(line) else MUTED
        axes.plot(x, y, "o", color=colour, markersize=6)
        axes.text(x + 0.12, y, str(process.pid), va="center", color=colour, weight="bold", fontsize=9)
        axes.text(
            x + 0.25 + 0.09 * len(str(process.pid)),
            y,
            _told(process, is_self=process.pid == pid),
            va="center",
            color=INK,
            fontsize=9,
        )
    rest = f"not drawn: {kernel_threads} threads of the kernel, {others} other processes"
    axes.text(0.2, len(rows) + 0.6, rest, va="center", color=MUTED, fontsize=8)
    return picture(figure, alt=describe_family(everyone, pid))


def describe_family(everyone: Sequence[Process], pid: int) -> str:
    """Say in words what `draw_family` draws."""
    line = " → ".join(f"{process.name} ({process.pid})" for process in ancestors(everyone, pid)) or "nobody"
    below = [process for _, process in descendants(everyone, pid)[1:]]
    names = ", ".join(f"{process.name} ({process.pid})" for process in below) or "none"
    return f"Process tree. Parents of this notebook ({pid}): {line}. Its {len(below)} descendants: {names}."


def _told(process: Process, *, is_self: bool) -> str:
    words = process.cmdline or (f"[{process.name}]",)
    told = " ".join(os.path.basename(word) if word.startswith("/") else word for word in words)
    shown = told if len(told) <= 60 else told[:59] + "…"
    return f"{shown}   ← this notebook" if is_self else shown


class ProcessTree:
    """The live tree. The slider says how many sleeping processes this notebook has; the kernel obeys.

    Use it in a ``with`` block or call `close`: the processes end with it.
    """

    def __init__(self, sleepers: int = 0) -> None:
        self._stack: list[contextlib.ExitStack] = []
        self._redraws: list[Callable[[], None]] = []  # one for each place where the tree is shown
        self.sleepers = sleepers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def sleepers(self) -> int:
        """How many sleeping processes there are; set it, and processes start or end."""
        return len(self._stack)

    @sleepers.setter
    def sleepers(self, wanted: int) -> None:
        while len(self._stack) < wanted:
            stack = contextlib.ExitStack()
            stack.enter_context(namespaces.spawn(SLEEPER))
            self._stack.append(stack)
        while len(self._stack) > wanted:
            self._stack.pop().close()
        for redraw in self._redraws:
            redraw()

    def close(self) -> None:
        """End the processes."""
        self.sleepers = 0

    def picture(self) -> Picture:
        """Draw the tree as it is now."""
        return draw_family(processes(), os.getpid())

    def _live(self, now: Picture) -> DOMWidget:
        import ipywidgets as widgets

        slider = widgets.IntSlider(
            self.sleepers, 0, 6, description="sleepers", continuous_update=False, readout=True
        )
        image = widgets.Image(value=now.png(), width=now.width_px)

        def obey(_change: object) -> None:
            if slider.value != self.sleepers:
                self.sleepers = slider.value

        def redraw() -> None:
            slider.value = self.sleepers
            image.value = self.picture().png()

        slider.observe(obey, names="value")
        self._redraws.append(redraw)
        return widgets.VBox([slider, image])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        now = self.picture()
        return mimebundle(self._live(now), static_html=picture_to_html(now), text=now.alt)
