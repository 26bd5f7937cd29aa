"""What became of each file in a stack of layers: who brought it, who replaced it, who hides it.

Pure: it takes what the layers hold and applies the rules of layer.md in the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from cnlab.containers.images.image import Image
from cnlab.containers.images.layer import Entry, read_entries

_SHELL = ("/bin/sh -c #(nop) ", "/bin/sh -c ")  # how engines begin what made a layer


@dataclass(frozen=True, slots=True)
class LayerContents:
    """A layer: what made it, the bytes of its blob, and its entries."""

    title: str
    size: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Version:
    """A file as one layer brings it; layers count from 1, the lowest."""

    path: str
    layer: int
    size: int  # bytes
    hidden_by: int | None = None  # the layer that replaces or deletes it
    is_deleted: bool = False  # rather than replaced

    def is_visible(self, layers: int) -> bool:
        """Whether the lowest `layers` layers together show it."""
        return self.layer <= layers and (self.hidden_by is None or self.hidden_by > layers)


def read_layers(image: Image) -> list[LayerContents]:
    """Read what each layer of an image holds, lowest first."""
    made_by = [step.get("created_by", "") for step in image.history if not step.get("empty_layer")]
    found = []
    for number, layer in enumerate(image.layers):
        title = made_by[number] if number < len(made_by) else ""
        with image.layout.open_blob(layer.descriptor) as blob:
            found.append(LayerContents(_plain(title), layer.descriptor.size, tuple(read_entries(blob))))
    return found


def _plain(created_by: str) -> str:
    for start in _SHELL:
        created_by = created_by.removeprefix(start)
    return " ".join(created_by.split())


def versions(layers: Sequence[LayerContents]) -> list[Version]:
    """Return each version of each file, by path and from the lowest layer up; directories are left out.

    See: OCI image-spec, layer.md, "Applying Changesets" and "Whiteouts".
    """
    visible: dict[str, Version] = {}
    hidden: list[Version] = []

    def hide(paths: Iterable[str], layer: int, *, is_deleted: bool) -> None:
        for path in paths:
            hidden.append(replace(visible.pop(path), hidden_by=layer, is_deleted=is_deleted))

    for number, layer in enumerate(layers, start=1):
        for entry in layer.entries:  # whiteouts are about lower layers only, so they come first
            if entry.kind == "whiteout":
                hide(_at_or_below(visible, entry.path), number, is_deleted=True)
            elif entry.kind == "opaque":
                hide(_below(visible, entry.path), number, is_deleted=True)
        for entry in layer.entries:
            if entry.kind in ("whiteout", "opaque"):
                continue
            in_the_way = [entry.path] if entry.kind == "directory" else _at_or_below(visible, entry.path)
            hide([path for path in in_the_way if path in visible], number, is_deleted=False)
            if entry.kind != "directory":
                visible[entry.path] = Version(entry.path, number, entry.size)
    return sorted([*hidden, *visible.values()], key=lambda version: (version.path, version.layer))


def _at_or_below(paths: Iterable[str], path: str) -> list[str]:
    return [other for other in paths if other == path or other.startswith(f"{path}/")]


def _below(paths: Iterable[str], directory: str) -> list[str]:
    return [other for other in paths if not directory or other.startswith(f"{directory}/")]


def stored_bytes(story: Iterable[Version], layer: int) -> int:
    """Return the bytes of the files that a layer holds."""
    return sum(version.size for version in story if version.layer == layer)


def shown_bytes(story: Iterable[Version], layer: int, layers: int) -> int:
    """Return how many of a layer's bytes the lowest `layers` layers together still show."""
    return sum(version.size for version in story if version.layer == layer and version.is_visible(layers))


@dataclass(frozen=True, slots=True)
class Row:
    """A path and its versions; or several files of one directory, from one layer and never touched."""

    name: str
    versions: tuple[Version, ...]
    is_group: bool = False


def rows(story: Sequence[Version], *, at_most: int = 3) -> list[Row]:
    """Sort the files into rows; more than `at_most` quiet ones of a directory and layer share a row."""
    by_path: dict[str, list[Version]] = {}
    for version in story:
        by_path.setdefault(version.path, []).append(version)
    quiet: dict[tuple[str, int], list[Version]] = {}
    found = []
    for path, own in by_path.items():
        if len(own) > 1 or own[0].hidden_by:
            found.append(Row(path, tuple(own)))
        else:
            quiet.setdefault((str(PurePosixPath(path).parent), own[0].layer), []).append(own[0])
    for (directory, _layer), files in quiet.items():
        found += _quiet_rows(directory, files, at_most)
    return sorted(found, key=lambda row: row.name)


def _quiet_rows(directory: str, files: Sequence[Version], at_most: int) -> Iterator[Row]:
    if len(files) <= at_most:
        yield from (Row(version.path, (version,)) for version in files)
    else:
        place = "" if directory == "." else f"{directory}/"
        yield Row(f"{place}… {len(files)} files", tuple(files), is_group=True)


def tell(layers: Sequence[LayerContents], story: Sequence[Version]) -> str:
    """Say in words what a table of the story shows."""
    top = len(layers)
    lines = []
    for number, layer in enumerate(layers, start=1):
        stored, shown = stored_bytes(story, number), shown_bytes(story, number, top)
        lines.append(f"Layer {number}, {layer.title}: {stored} bytes in files, {shown} of them still seen.")
        for word, is_deleted in (("deletes", True), ("replaces", False)):
            paths = [
                version.path
                for version in story
                if version.hidden_by == number and version.is_deleted == is_deleted
            ]
            if paths:
                more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
                lines.append(f"  {word} {', '.join(paths[:5])}{more}")
    return "\n".join(lines)
