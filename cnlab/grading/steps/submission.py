"""Read what a student handed in, trusting none of it.

Interface: `read_submission` takes the files of a directory; `parse_notebook` takes the cells of a notebook.

A submission may hold links, devices, pipes, half a terabyte of zeros, names with newlines, and JSON that is
broken, deep, or of other types than it should be. Only regular files are opened, without following links,
and only up to a size; of a notebook nothing is kept but cell types, sources, ids and pasted pictures.
What is left out is said in one plain line each.
"""

import base64
import binascii
import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cnlab.errors import CnlabError

CELL_TYPES = ("code", "markdown", "raw")
_FORMAT = 4  # of notebooks, "nbformat"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_CELL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_A_FILE = {errno.ELOOP: "is a link", errno.ENXIO: "is no regular file"}
_PICTURES = ("image/png", "image/jpeg", "image/gif")


class InvalidSubmission(CnlabError, ValueError):  # noqa: N818 - reads as the claim it makes
    """A file that was handed in is not a notebook that can be graded; the message says why in plain words."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of a submission is read. A notebook of a lab without its outputs has a few dozen kilobytes."""

    file_bytes: int = 20_000_000
    total_bytes: int = 50_000_000
    files: int = 1_000
    depth: int = 16  # of directories
    cells: int = 2_000


SIZES = Sizes()


@dataclass(frozen=True, slots=True)
class Submission:
    """The files of a submission by their relative names, and in plain words what was left out."""

    files: Mapping[str, bytes]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SubmittedCell:
    """All that is believed of a submitted cell; `grade_id` is what it claims to be, or empty."""

    cell_type: str
    source: str
    grade_id: str = ""
    id: str = ""
    attachments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_submission(directory: Path, *, ignore: Sequence[str] = (), sizes: Sizes = SIZES) -> Submission:
    """Read the regular files below `directory`; names that match a glob of `ignore` do not count.

    Raises:
        OSError: `directory` itself cannot be opened, or is a link.
    """
    files: dict[str, bytes] = {}
    problems: list[str] = []
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        room = sizes.total_bytes
        for name, entry in _walk(top, "", ignore, sizes, problems):
            if len(files) >= sizes.files:
                problems.append(f"there are more than {sizes.files} files; the others were left out")
                break
            try:
                data = _read(entry, min(room, sizes.file_bytes))
            except OSError as error:
                why = _NOT_A_FILE.get(error.errno or 0, f"cannot be read: {error.strerror}")
                problems.append(f"`{name}` {why}; it was left out")
            except InvalidSubmission as error:
                problems.append(f"`{name}` {error}; it was left out")
            else:
                files[name] = data
                room -= len(data)
    finally:
        os.close(top)
    return Submission(files, tuple(problems))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A name in an open directory."""

    directory: int
    name: str


def _walk(
    directory: int, prefix: str, ignore: Sequence[str], sizes: Sizes, problems: list[str]
) -> Iterator[tuple[str, _Entry]]:
    """Yield the files below an open directory, sorted, with their relative names."""
    for name in sorted(os.listdir(directory)):
        path = prefix + name
        if any(fnmatch(name, pattern) for pattern in ignore):
            continue
        if not _is_plain(name):
            problems.append(f"{path!a} is no name for a file; it was left out")
            continue
        try:
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(mode):
            yield path, _Entry(directory, name)
        elif path.count("/") + 1 >= sizes.depth:
            problems.append(f"`{path}` lies too deep; it was left out")
        else:
            try:
                inner = os.open(
                    name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory
                )
            except OSError as error:
                problems.append(f"`{path}` cannot be read: {error.strerror}")
                continue
            try:
                yield from _walk(inner, path + "/", ignore, sizes, problems)
            finally:
                os.close(inner)


def _is_plain(name: str) -> bool:
    """Whether a file's name can be shown, sent and written again anywhere."""
    return name.isprintable() and len(name.encode(errors="surrogateescape")) <= 200 and "\\" not in name


def _read(entry: _Entry, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes; O_NONBLOCK, so that a pipe cannot hold us up."""
    fd = os.open(
        entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=entry.directory
    )
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidSubmission("is no regular file")
        if status.st_size > limit or len(data := file.read(limit + 1)) > limit:
            size = max(status.st_size, limit + 1) / 1e6
            raise InvalidSubmission(f"has {size:.0f} MB, of at most {limit / 1e6:.0f} MB that are read")
    return data


def parse_notebook(data: bytes, *, sizes: Sizes = SIZES) -> tuple[SubmittedCell, ...]:
    """Return the cells of a notebook.

    Raises:
        InvalidSubmission: it is none, or one of another format version that cannot be converted.
    """
    try:
        document = json.loads(data.decode("utf-8-sig"), parse_constant=lambda name: None)
    except UnicodeDecodeError:
        raise InvalidSubmission("is not text in UTF-8") from None
    except RecursionError:
        raise InvalidSubmission("is nested too deeply") from None
    except ValueError as error:
        raise InvalidSubmission(f"is not valid JSON: {error}") from None
    cells = _as_version_4(document).get("cells")
    if not isinstance(cells, list):
        raise InvalidSubmission("has no list of cells")
    if len(cells) > sizes.cells:
        raise InvalidSubmission(f"has {len(cells)} cells, of at most {sizes.cells} that are read")
    return tuple(_cell(cell, number) for number, cell in enumerate(cells, start=1))


def _as_version_4(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InvalidSubmission("is JSON, but no notebook")
    version = document.get("nbformat")
    if type(version) is not int:
        raise InvalidSubmission("does not say its format version (`nbformat`)")
    if version == _FORMAT:
        return document
    if version > _FORMAT:
        raise InvalidSubmission(
            f"has format version {version}, newer than the {_FORMAT} that can be read here:"
            " save it as version 4 and hand it in again"
        )
    return _upgraded(document, version)


def _upgraded(document: dict[str, Any], version: int) -> dict[str, Any]:
    import nbformat

    try:
        return dict(nbformat.convert(nbformat.from_dict(document), _FORMAT))
    except Exception:  # the converters trust their input, which may be anything
        raise InvalidSubmission(
            f"has the old format version {version} and cannot be converted:"
            " open it in JupyterLab, save it, and hand it in again"
        ) from None


def _cell(cell: object, number: int) -> SubmittedCell:
    if not isinstance(cell, dict) or cell.get("cell_type") not in CELL_TYPES:
        raise InvalidSubmission(f"has a cell, number {number}, of an unknown type")
    source = cell.get("source", "")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise InvalidSubmission(f"has a cell, number {number}, whose source is no text")
    own_id = cell.get("id")
    return SubmittedCell(
        cell_type=str(cell["cell_type"]),
        source=_LONE_SURROGATE.sub("\ufffd", source),
        grade_id=_claimed_id(cell.get("metadata")),
        id=own_id if isinstance(own_id, str) and _CELL_ID.fullmatch(own_id) else "",
        attachments=_pictures(cell.get("attachments")) if cell["cell_type"] == "markdown" else {},
    )


def _claimed_id(metadata: object) -> str:
    claims = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    claimed = claims.get("grade_id") if isinstance(claims, dict) else None
    return claimed if isinstance(claimed, str) else ""


def _pictures(attachments: object) -> dict[str, dict[str, str]]:
    """Return the pictures that were pasted into a cell; other attachments could be pages with scripts."""
    found: dict[str, dict[str, str]] = {}
    for name, bundle in attachments.items() if isinstance(attachments, dict) else ():
        for kind, data in bundle.items() if isinstance(bundle, dict) else ():
            if kind in _PICTURES and isinstance(data, str) and name.isprintable():
                with_data = _base64(data)
                found.setdefault(name, {}).update({kind: with_data} if with_data else {})
    return {name: bundle for name, bundle in found.items() if bundle}


def _base64(text: str) -> str:
    """Return base64 text spelled anew, so that it is nothing else; empty if it is not base64."""
    try:
        return base64.b64encode(base64.b64decode(text)).decode()
    except (binascii.Error, ValueError):
        return ""
