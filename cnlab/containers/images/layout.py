"""An OCI image layout: a directory with blobs named by their digest, and an index that gives names to some.

    oci-layout                   {"imageLayoutVersion": "1.0.0"}
    index.json                   an index, whose descriptors may carry a name
    blobs/sha256/<64 hex digits>

Interface: `add_blob`, `open_blob` and the others of `blobs.BlobStore` for content; `tag`, `resolve` and
`remove` for names; `collect_garbage` deletes what no name leads to.

See: OCI image-spec, image-layout.md.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from cnlab.containers.images.blobs import BlobStore, format_json, parse_json
from cnlab.containers.images.descriptor import (
    INDEX_MEDIA_TYPES,
    MANIFEST_MEDIA_TYPES,
    MEDIA_TYPE_INDEX,
    Descriptor,
    Platform,
)
from cnlab.errors import InvalidImage, InvalidValue

REF_NAME = "org.opencontainers.image.ref.name"
_MAX_DEPTH = 8  # indexes may point at indexes
_NAME = re.compile(r"[A-Za-z0-9]+(?:(?:[-._:@+/]|--)[A-Za-z0-9]+)*")


class Layout(BlobStore):
    """An image layout on disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open an existing layout.

        Raises:
            InvalidImage: the directory is no layout, or one of another version.
        """
        super().__init__(path)
        try:
            marker = parse_json((self.path / "oci-layout").read_bytes(), f"{self.path}/oci-layout")
        except (FileNotFoundError, NotADirectoryError):
            raise InvalidImage(f"{self.path} is no image layout: it has no file oci-layout") from None
        version = marker.get("imageLayoutVersion")
        if version != "1.0.0":
            raise InvalidImage(f"{self.path}/oci-layout: imageLayoutVersion is {version!r}, not '1.0.0'")

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Self:
        """Make an empty layout at `path`, with the directories above; one that is there already is opened."""
        path = Path(path)
        (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not (path / "index.json").exists():
                _write_index(path, {"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "manifests": []})
            if not (path / "oci-layout").exists():
                (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return cls(path)

    @property
    def index(self) -> dict[str, Any]:
        """What ``index.json`` says now."""
        where = f"{self.path}/index.json"
        try:
            index = parse_json((self.path / "index.json").read_bytes(), where)
        except FileNotFoundError:
            raise InvalidImage(f"{where} does not exist: this layout is not complete") from None
        if not isinstance(index.get("manifests"), list):
            raise InvalidImage(f"{where}: 'manifests' is no list")
        return index

    # Blobs that are JSON

    def manifest(self, descriptor: Descriptor) -> dict[str, Any]:
        """Return the image manifest that `descriptor` points at; refuse what is none."""
        if not descriptor.is_manifest:
            raise InvalidImage(f"{descriptor.digest} is {descriptor.media_type!r}, not an image manifest")
        manifest = self.read_json(descriptor)
        _refuse_two_readings(manifest, descriptor)
        if not isinstance(manifest.get("config"), dict) or not isinstance(manifest.get("layers"), list):
            raise InvalidImage(f"manifest {descriptor.digest} lacks 'config' or 'layers'")
        return manifest

    def config(self, descriptor: Descriptor) -> dict[str, Any]:
        """Return the image config of the manifest that `descriptor` points at."""
        return self.read_json(Descriptor.from_json(self.manifest(descriptor)["config"]))

    def manifests(self, descriptor: Descriptor) -> list[Descriptor]:
        """Return the manifests that an index, and indexes in it, lead to; of a manifest, itself."""
        return list(self._manifests_below(descriptor, _MAX_DEPTH))

    def _manifests_below(self, descriptor: Descriptor, depth: int) -> Iterator[Descriptor]:
        if not descriptor.is_index:
            yield descriptor
            return
        if depth == 0:
            raise InvalidImage(f"index {descriptor.digest} is nested more than {_MAX_DEPTH} deep")
        index = self.read_json(descriptor)
        _refuse_two_readings(index, descriptor)
        for child in _descriptors(index, f"index {descriptor.digest}"):
            if not child.is_index or self.has_blob(child.digest):
                yield from self._manifests_below(child, depth - 1)

    # Names

    def entries(self) -> list[tuple[str, Descriptor]]:
        """Return what the index points at, each with its name or an empty one; a name may occur twice."""
        found = _descriptors(self.index, f"{self.path}/index.json")
        return [(descriptor.annotations.get(REF_NAME, ""), descriptor) for descriptor in found]

    def tags(self) -> dict[str, Descriptor]:
        """Return the names in the index, and what each points at."""
        return {name: descriptor for name, descriptor in reversed(self.entries()) if name}

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let `name` point at a manifest or index in this layout, and no longer at what it pointed at.

        An empty name puts it into the index without one, so that it is no garbage.
        """
        if name and not _NAME.fullmatch(name):
            raise InvalidValue(f"{name!r} is no name for an image; see {REF_NAME} in annotations.md")
        if not (descriptor.is_index or descriptor.is_manifest) or not self.has_blob(descriptor.digest):
            what = f"manifest or index {descriptor.digest} ({descriptor.media_type})"
            raise InvalidImage(f"{self.path} has no {what} to call {name!r}")
        annotations = {key: value for key, value in descriptor.annotations.items() if key != REF_NAME}
        if name:
            annotations[REF_NAME] = name
        entry = replace(descriptor, annotations=annotations).to_json()
        with self._changing_index() as index:
            kept = [old for old in index["manifests"] if not name or _name_of(old) != name]
            index["manifests"] = kept if entry in kept else [*kept, entry]

    def remove(self, name: str) -> None:
        """Forget a name; `collect_garbage` deletes what only it led to."""
        with self._changing_index() as index:
            kept = [entry for entry in index["manifests"] if _name_of(entry) != name]
            if len(kept) == len(index["manifests"]):
                raise InvalidValue(f"{self.path} has no image {name!r}; it has {self._names()}")
            index["manifests"] = kept

    @contextlib.contextmanager
    def _changing_index(self) -> Iterator[dict[str, Any]]:
        """Let the block change the index; entries and fields that it leaves alone are kept as they are."""
        with _locked(self.path):
            index = self.index
            yield index
            _write_index(self.path, index)

    def resolve(self, reference: str = "", *, platform: Platform | None = None) -> Descriptor:
        """Return the descriptor of the image manifest that a name or digest leads to.

        Args:
            reference: a tag of this layout or a ``sha256:…`` digest; empty where there is but one.
            platform: which image of a multi-platform index; by default this machine's.

        Raises:
            InvalidImage: there is no such name, or no image for that platform; the message has the list.
        """
        starts = self._start_of(reference)
        if len(starts) == 1 and starts[0].is_manifest and platform is None:
            return starts[0]
        found = [manifest for start in starts for manifest in self.manifests(start) if manifest.is_manifest]
        wanted = platform or Platform.here()
        platforms = {descriptor: self._platform_of(descriptor) for descriptor in found}
        for descriptor, has in platforms.items():
            if has is not None and has.satisfies(wanted):
                return descriptor
        offered = ", ".join(sorted({str(has) for has in platforms.values() if has})) or "none"
        raise InvalidImage(f"{reference or self.path} has no image for {wanted}; the platforms are {offered}")

    def _start_of(self, reference: str) -> list[Descriptor]:
        entries = _descriptors(self.index, f"{self.path}/index.json")
        if not reference:
            if len({entry.digest for entry in entries}) == 1:
                return entries[:1]
            raise InvalidImage(f"{self.path} has {len(entries)} images; say which of {self._names()}")
        found = [entry for entry in entries if entry.annotations.get(REF_NAME) == reference]
        if not found and ":" in reference:
            nested = (below for entry in entries if entry.is_index for below in self.manifests(entry))
            found = [entry for entry in (*entries, *nested) if entry.digest == reference][:1]
        if not found:
            raise InvalidImage(f"{self.path} has no image {reference!r}; it has {self._names()}")
        return found

    def _platform_of(self, descriptor: Descriptor) -> Platform | None:
        """Return what an image is for; an index need not say it, the image's config does."""
        if descriptor.platform is not None:
            return descriptor.platform
        if not self.has_blob(descriptor.digest):
            return None
        with contextlib.suppress(InvalidImage):
            return Platform.from_json(self.config(descriptor))
        return None

    def _names(self) -> str:
        return ", ".join(sorted(self.tags())) or "none that has a name"

    def collect_garbage(self) -> int:
        """Delete the blobs that nothing in the index leads to, and return how many bytes that freed.

        A blob that was added and is not yet tagged, directly or by what points at it, goes too.
        """
        with _locked(self.path):
            unwanted = self.digests() - self.reachable(descriptor for _, descriptor in self.entries())
            freed = 0
            for path in map(self.blob_path, unwanted):
                freed += path.stat().st_size
                path.unlink()
            return freed + self.remove_unfinished()

    def reachable(self, starts: Iterable[Descriptor]) -> set[str]:
        """Return the digests of blobs and of all that they lead to, here or not."""
        wanted: set[str] = set()
        for start in starts:
            self._mark(start, wanted)
        return wanted

    def _mark(self, descriptor: Descriptor, wanted: set[str]) -> None:
        """Add to `wanted` the digests of a blob and of all that it leads to."""
        if descriptor.digest in wanted:
            return
        wanted.add(descriptor.digest)
        if not (descriptor.is_index or descriptor.is_manifest) or not self.has_blob(descriptor.digest):
            return
        content = self.read_json(descriptor)
        children = [content.get("config"), content.get("subject")]
        for key in ("manifests", "layers"):
            children += content.get(key) or []
        for child in filter(None, children):
            self._mark(Descriptor.from_json(child), wanted)


def _descriptors(index: Mapping[str, Any], where: str) -> list[Descriptor]:
    manifests = index.get("manifests")
    if not isinstance(manifests, list):
        raise InvalidImage(f"{where}: 'manifests' is no list")
    return [Descriptor.from_json(entry) for entry in manifests]


def _name_of(entry: Any) -> str:
    return Descriptor.from_json(entry).annotations.get(REF_NAME, "")


def _refuse_two_readings(content: Mapping[str, Any], descriptor: Descriptor) -> None:
    """Refuse bytes that one reader takes for an index and another for a manifest (CVE-2021-41190)."""
    kinds = INDEX_MEDIA_TYPES if descriptor.is_index else MANIFEST_MEDIA_TYPES
    foreign = {"layers", "config"} if descriptor.is_index else {"manifests"}
    said = content.get("mediaType", descriptor.media_type)
    if said not in kinds or foreign & content.keys():
        raise InvalidImage(f"{descriptor.digest} is called {descriptor.media_type!r}, and reads as {said!r}")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Be the only one, in any process, who changes the index."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write_index(path: Path, index: Mapping[str, Any]) -> None:
    """Replace ``index.json`` at once: a reader sees the old one or the new one."""
    temporary = path / f".index-{os.getpid()}"
    temporary.write_bytes(format_json(index))
    temporary.replace(path / "index.json")
