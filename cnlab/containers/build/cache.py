"""The layer cache: what a step did before need not be done again.

A step's key is made of the step before it, the instruction, and the digest of what it copies. So a step is
found only if all before it were found too: one change, and everything after it is built again.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from typing import Any

from cnlab.containers.build.instructions import Instruction
from cnlab.containers.images.descriptor import Descriptor
from cnlab.containers.images.layer import Layer
from cnlab.containers.images.layout import Layout
from cnlab.errors import InvalidImage


@dataclass(frozen=True, slots=True)
class Entry:
    """What a step came to."""

    layer: Layer | None  # None: it changed no file
    output: str = ""


class Cache:
    """The cache of a layout: a small file for each step, beside the blobs that it names."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.directory = layout.path / "build-cache"

    def find(self, key: str) -> Entry | None:
        """Return what the step with this key came to, if its layer is still in the layout."""
        try:
            record = json.loads((self.directory / key).read_bytes())
            layer = _layer(record["layer"])
        except (FileNotFoundError, ValueError, LookupError, InvalidImage):
            return None
        if layer is not None and not self.layout.has_blob(layer.descriptor.digest):
            return None
        return Entry(layer, record["output"])

    def remember(self, key: str, entry: Entry) -> None:
        """Keep what a step came to."""
        layer = entry.layer and {
            "descriptor": entry.layer.descriptor.to_json(),
            "diff_id": entry.layer.diff_id,
        }
        self.directory.mkdir(exist_ok=True)
        draft = self.directory / f".{os.getpid()}"
        draft.write_text(json.dumps({"layer": layer, "output": entry.output}))
        draft.replace(self.directory / key)

    def clear(self) -> None:
        """Forget all steps. Their layers stay in the layout until it collects its garbage."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)


def first_key(base: str, epoch: int | None = None) -> str:
    """Return the key of a stage's beginning: the digest of its base image, and which times are allowed."""
    return _key(["FROM", base, epoch])


def next_key(parent: str, instruction: Instruction, *others: str) -> str:
    """Return the key of a step.

    Args:
        parent: the key of the step before.
        instruction: with its variables resolved; where it stands in the file does not count.
        others: what else decides, such as the digest of the files that it copies.
    """
    said = dataclasses.asdict(dataclasses.replace(instruction, line=0, text=""))
    return _key([parent, type(instruction).__name__, said, *others])


def _key(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _layer(record: dict[str, Any] | None) -> Layer | None:
    return None if record is None else Layer(Descriptor.from_json(record["descriptor"]), record["diff_id"])
