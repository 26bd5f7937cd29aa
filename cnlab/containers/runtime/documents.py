"""JSON documents, without `json`, whose import takes as long as all else that the runtime imports.

The interpreter's own scanner and encoder, which `json` is a front of, do the same work. What they refuse goes
to `json` all the same, for its error message.
"""

from __future__ import annotations

import _json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Settings:
    """What `json.JSONDecoder` would tell the scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner empties it after each document


def parse(text: str) -> Any:
    """Return the value that the JSON `text` stands for.

    Raises:
        ValueError: it is no JSON; the message says where.
    """
    text = text.strip()
    try:
        value, end = _json.make_scanner(_Settings)(text, 0)  # type: ignore[arg-type]
    except (StopIteration, ValueError):
        end = -1
    if end != len(text):
        import json

        return json.loads(text)
    return value


def text_of(value: Any) -> str:
    """Return `value` as JSON on one line."""
    encode = _json.make_encoder(
        None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, False
    )
    return "".join(encode(value, 0))


def _refuse(value: object) -> object:
    raise TypeError(f"{value!r} has no form in JSON")


def read(path: str) -> Any:
    """Return the value in the file at `path`."""
    with open(path, "rb", buffering=0) as file:
        return parse(file.read().decode())


def write(path: str, value: Any) -> None:
    """Write `value` to the file at `path`, so that a reader finds the old text or the new, never a half."""
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text_of(value).encode())
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)
