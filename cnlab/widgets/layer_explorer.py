"""Which file comes from which layer, and what the layers above have done to it.

Interface: ``LayerExplorer(image, store)`` as the last value of a cell. A table has a row for each file and a
column for each layer; a slider stacks the lowest layers of the image, as many as it says, and the kernel is
asked what it shows then: overlayfs is mounted for the moment in which its files are listed.
"""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnlab.containers.images.image import Image
from cnlab.containers.images.snapshot import SnapshotStore
from cnlab.linux.mounts import overlay_mount
from cnlab.widgets.layer_story import (
    LayerContents,
    Row,
    Version,
    read_layers,
    rows,
    shown_bytes,
    stored_bytes,
    tell,
    versions,
)
from cnlab.widgets.mimebundle import mimebundle
from cnlab.widgets.picture import BLUE, PAPER, RED

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

STATIC_NOTE = "In a running notebook, a slider stacks fewer layers and asks the kernel what is there then."
_CELL = (
    "padding: 1px 8px; border: 1px solid transparent; background-clip: padding-box; "
    "text-align: right; white-space: nowrap"
)
_SEEN = f"{_CELL}; background: {BLUE}; color: {PAPER}"
_HIDDEN = f"{_CELL}; text-decoration: line-through; opacity: 0.55"
_GONE = f"{_CELL}; background: {RED}; color: {PAPER}"
_NAME = "padding: 1px 8px; text-align: left; white-space: nowrap; font-weight: normal"
_HEAD = "padding: 1px 8px; text-align: right; vertical-align: bottom; max-width: 11em; font-weight: normal"


def files_shown(lowers: Sequence[Path]) -> set[str]:
    """Stack directories, the topmost first, and return the files that the kernel shows then."""
    if not lowers:
        return set()
    with tempfile.TemporaryDirectory() as place:
        merged, empty = Path(place, "merged"), Path(place, "empty")
        merged.mkdir()
        empty.mkdir()  # without an upper directory overlayfs asks for two lower ones
        with overlay_mount(merged, lower=[*lowers, empty]):
            return set(_files_below(merged))


def _files_below(top: Path) -> Iterator[str]:
    """Yield the paths of all that is no directory, from `top` on."""
    for above, directories, files in os.walk(top):
        links = [name for name in directories if os.path.islink(os.path.join(above, name))]
        for name in (*files, *links):
            yield os.path.relpath(os.path.join(above, name), top)


def table_html(layers: Sequence[LayerContents], story: Sequence[Version], stacked: int) -> str:
    """Draw the table with the lowest `stacked` layers in place and the others faint."""
    heads = "".join(_head(number, layer, stacked) for number, layer in enumerate(layers, start=1))
    body = "".join(_row(row, len(layers), stacked) for row in rows(story))
    sums = [
        ("bytes in files", [stored_bytes(story, number + 1) for number in range(len(layers))]),
        ("still seen", [shown_bytes(story, number + 1, stacked) for number in range(len(layers))]),
    ]
    foot = "".join(
        f'<tr><th scope="row" style="{_NAME}"><em>{name}</em></th>'
        + "".join(f'<td style="{_CELL}"><em>{_bytes(value)}</em></td>' for value in values)
        + "</tr>"
        for name, values in sums
    )
    return (
        '<div style="overflow-x: auto"><table class="cnlab-layers" style="border-collapse: collapse; '
        'font-size: 0.9em">'
        f'<thead><tr><th scope="col" style="{_NAME}">file</th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody><tfoot>{foot}</tfoot></table></div>"
    )


def _head(number: int, layer: LayerContents, stacked: int) -> str:
    faint = "; opacity: 0.35" if number > stacked else ""
    title = html.escape(layer.title[:60] + ("…" if len(layer.title) > 60 else ""))
    return (
        f'<th scope="col" style="{_HEAD}{faint}" title="{html.escape(layer.title)}"><strong>layer {number}'
        f"</strong><br><small>{title}</small><br>{_bytes(layer.size)}</th>"
    )


def _row(row: Row, layers: int, stacked: int) -> str:
    cells = "".join(_cell(row, number, stacked) for number in range(1, layers + 1))
    return f'<tr><th scope="row" style="{_NAME}">{html.escape(row.name)}</th>{cells}</tr>'


def _cell(row: Row, number: int, stacked: int) -> str:
    """What layer `number` did to the row: it brings the file, deletes it, or neither."""
    own = [version for version in row.versions if version.layer == number]
    faint = "; opacity: 0.35" if number > stacked else ""
    if own:
        is_seen = all(version.is_visible(stacked) for version in own)
        style, word = (_SEEN, "seen") if is_seen else (_HIDDEN, "stored and not seen")
        size = sum(version.size for version in own)
        return f'<td style="{style}{faint}" title="{word}">{_bytes(size)}</td>'
    if any(version.hidden_by == number and version.is_deleted for version in row.versions):
        return f'<td style="{_GONE}{faint}" title="deleted by a whiteout">✕ deleted</td>'
    return f'<td style="{_CELL}"></td>'


def _bytes(count: int) -> str:
    return f"{count} B" if count < 10_000 else f"{count / 1000:,.0f} kB"


class LayerExplorer:
    """The files of an image, layer by layer."""

    def __init__(self, image: Image, store: SnapshotStore) -> None:
        """Read the image's layers and unpack them into `store`, each by itself."""
        self.layers = read_layers(image)
        self.story = versions(self.layers)
        self._lowers = store.prepare(image)

    def files(self, stacked: int) -> set[str]:
        """Return the files that the kernel shows when the lowest `stacked` layers are mounted."""
        return files_shown(self._lowers[len(self._lowers) - stacked :])

    def expected(self, stacked: int) -> set[str]:
        """Return the files that the entries of the layers promise."""
        return {version.path for version in self.story if version.is_visible(stacked)}

    def as_html(self, stacked: int, files: Collection[str]) -> str:
        """The table, and what the kernel showed."""
        return (
            f"<p>{stacked} of {len(self.layers)} layers stacked: the kernel shows {len(files)} files.</p>"
            f"{table_html(self.layers, self.story, stacked)}"
        )

    def _live(self) -> DOMWidget:
        import ipywidgets as widgets

        top = len(self.layers)
        slider = widgets.IntSlider(top, 0, top, description="layers", continuous_update=False)
        table = widgets.HTML(self.as_html(top, self.files(top)))

        def stack(_change: object) -> None:
            table.value = self.as_html(slider.value, self.files(slider.value))

        slider.observe(stack, names="value")
        return widgets.VBox([slider, table])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        live, top = self._live(), len(self.layers)
        static = f"{self.as_html(top, self.files(top))}<p>{STATIC_NOTE}</p>"
        return mimebundle(live, static_html=static, text=tell(self.layers, self.story))
